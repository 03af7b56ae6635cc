"""Input and output: picture files <-> pixels in [-1, 1].

A picture is a PIL image; pixels are what networks see: a float32 tensor (3, height, width), red, green, blue, each in
[-1, 1]. Whatever a file holds (palette, transparency, 16 bits, a camera's rotation flag) ends here: everything after
`read_picture` is upright 8-bit RGB.

A drawn picture carries the settings that drew it as A1111's text: in PNG the text chunk `parameters`, in JPEG and WebP
EXIF's UserComment.
"""

import math
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diafano.errors import UserError
from diafano.whole_file import whole_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffix of a file name -> Pillow's name of the format that is written."""

# 95 and full colour resolution: crisp edges on flat colours show JPEG's and WebP's losses at their worst.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95, "method": 4},
}

PARAMETERS = "parameters"
"""Name of A1111's text chunk, and of the entry in `Image.info` under which Pillow hands it over."""

USER_COMMENT_UNICODE = b"UNICODE\0"
USER_COMMENT_ASCII = b"ASCII\0\0\0"
LONGEST_EXIF = 65_000
"""Bytes of user comment that fit into a JPEG segment (65,533 in all) beside the rest of the EXIF block."""

_warning_filters = threading.Lock()


# ---- files


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file as upright 8-bit RGB.

    Transparent parts lie on white; a palette, grey values and 16 bits become 8-bit RGB; the rotation that a camera
    noted in EXIF is applied; of an animation the first frame is taken.

    Raises UserError for a file that is missing, empty, no picture, broken, of no extent or so large that it may be
    meant to fill the memory (more than Pillow's Image.MAX_IMAGE_PIXELS, about 89 million pixels).
    """
    image = _open(path)
    try:
        with image:
            upright = ImageOps.exif_transpose(image)
            return _as_rgb(upright, f"the picture {str(path)!r}")
    except UserError:
        raise
    except Exception as error:  # Pillow's readers meet broken data with whatever error it happens to cause
        raise UserError(f"the picture {str(path)!r} is broken ({error}): replace it or leave it out") from error


def save_picture(picture: Image.Image, path: str | os.PathLike[str], parameters: str | None = None) -> None:
    """Write a picture as PNG, JPEG or WebP, whichever the file name's suffix says, with its settings inside.

    The file is written beside its target and moved into place, so nobody ever sees half a picture. `parameters` is
    A1111's text; None takes what the picture carries (`picture.info["parameters"]`), if anything.

    Raises UserError for an unknown suffix, a folder that is not there, and settings too long for the format.
    """
    path = Path(path)
    check_target(path)
    if parameters is None:
        parameters = picture.info.get(PARAMETERS)
    file_format = FORMATS[path.suffix.lower()]
    options = SAVE_OPTIONS[file_format] | metadata(file_format, parameters)
    try:
        with whole_file(path) as unfinished, unfinished.open("xb") as file:
            _as_rgb(picture, "the picture").save(file, format=file_format, **options)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise UserError unless a picture can be written to `path`: to be asked before the work, not after it."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"cannot tell the picture format of {str(path)!r}: end it with one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder, not a picture file: name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to: make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"the folder {str(path.parent)!r} cannot be written to: choose another one")


def read_parameters(path: str | os.PathLike[str]) -> str | None:
    """The settings text that a picture file carries, or None. Raises UserError for a file that is no picture."""
    try:
        with _open(path) as image:
            image.load()  # PNG allows text chunks after the pixels
            if isinstance(text := image.info.get(PARAMETERS), str):
                return str(text)
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except UserError:
        raise
    except Exception as error:  # as in read_picture
        raise UserError(f"the picture {str(path)!r} is broken ({error}): replace it or leave it out") from error
    return _comment_text(comment)


# ---- pixels


def to_pixels(picture: Image.Image) -> Tensor:
    """Picture -> float32 tensor (3, height, width); 0 becomes -1, 255 becomes 1."""
    values = torch.from_numpy(np.array(_as_rgb(picture, "the picture")))  # (height, width, 3) uint8, a copy
    return values.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def to_picture(pixels: Tensor) -> Image.Image:
    """Tensor (3, height, width), nominally in [-1, 1] -> picture: rounded to 8 bits, what lies beyond is clamped.

    Raises UserError where a value is not a number or infinite: a picture of that would be black without a reason.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"pixels of shape (3, height, width) expected, not {tuple(pixels.shape)}")
    values = pixels.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            f"the picture came out with values that are not finite numbers ({pixels.dtype}): use dtype float32, "
            "or a lower guidance"
        )
    values = values.add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)
    return Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def as_rgb(picture: Image.Image) -> Image.Image:
    """Any mode of Pillow's -> RGB, as `read_picture` has it."""
    return _as_rgb(picture, "the picture")


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resize and cut a picture to exactly (width, height), as large as it goes around its centre."""
    if width < 1 or height < 1:
        raise UserError(f"a picture cannot be made {width}x{height}: width and height are at least 1")
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), method=Image.Resampling.LANCZOS)


def grid(pictures: Sequence[Image.Image], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Put pictures in rows of `columns`, `gap` white pixels apart; each cell has the largest's size.

    None makes about as many columns as rows.
    """
    if not pictures:
        raise UserError("there are no pictures to put into a grid")
    if columns is None:
        columns = math.ceil(len(pictures) / round(math.sqrt(len(pictures))))
    if columns < 1:
        raise UserError(f"a grid cannot have {columns} columns: at least 1")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    return sheet


# ---- settings


class DrawnPicture(Image.Image):
    """A picture whose settings (`info["parameters"]`) go with it when it is saved with Pillow's own `save`."""

    def save(
        self,
        fp: str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[bytes],
        format: str | None = None,
        **params: Any,
    ) -> None:
        """Pillow's `Image.save`; metadata given explicitly (`pnginfo=`, `exif=`) wins."""
        file_format = format
        if file_format is None and isinstance(fp, str | os.PathLike):
            file_format = FORMATS.get(Path(os.fsdecode(fp)).suffix.lower())
        extra = metadata(file_format.upper(), self.info.get(PARAMETERS)) if file_format is not None else {}
        super().save(fp, format=format, **(extra | params))


def with_parameters(picture: Image.Image, parameters: str) -> DrawnPicture:
    """The same picture, carrying its settings; they are written whether `save_picture` or Pillow's `save` is used."""
    drawn = picture.copy()
    drawn.info[PARAMETERS] = parameters
    # Pillow offers no way to build a subclass around existing pixels; the two classes have the same layout.
    drawn.__class__ = DrawnPicture
    assert isinstance(drawn, DrawnPicture)
    return drawn


def metadata(file_format: str, parameters: str | None) -> dict[str, Any]:
    """Options of Pillow's `save` that put the settings text into a file of this format ("PNG", "JPEG", "WEBP")."""
    if parameters is None:
        return {}
    if file_format == "PNG":
        chunks = PngInfo()
        chunks.add_text(PARAMETERS, parameters)  # becomes iTXt (UTF-8) where Latin-1 does not suffice
        return {"pnginfo": chunks}
    if file_format in ("JPEG", "WEBP"):
        # Big-endian without a mark, whatever the block's own byte order: what A1111 writes and others read.
        comment = USER_COMMENT_UNICODE + parameters.encode("utf-16-be")
        if len(comment) > LONGEST_EXIF:
            raise UserError(
                f"the settings ({len(parameters)} characters) are too long for a {file_format} file: save as PNG"
            )
        exif = Image.Exif()
        exif[ExifTags.IFD.Exif] = {int(ExifTags.Base.UserComment): comment}
        return {"exif": exif}
    return {}


def _comment_text(comment: object) -> str | None:
    """EXIF UserComment -> text; its first 8 bytes name the encoding, but not the byte order of UTF-16."""
    if not isinstance(comment, bytes):
        return None
    code, text = comment[:8], comment[8:]
    if code == USER_COMMENT_ASCII:
        return text.decode("utf-8", errors="replace").rstrip("\0")
    if code == USER_COMMENT_UNICODE:
        # Latin letters have one zero byte each: first in big-endian, second in little-endian.
        little = text.startswith(b"\xff\xfe") or text[1::2].count(0) > text[0::2].count(0)
        text = text.removeprefix(b"\xff\xfe") if little else text.removeprefix(b"\xfe\xff")
        return text.decode("utf-16-le" if little else "utf-16-be", errors="replace")
    return None


# ---- inside Pillow


def _open(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file's header; pixels follow when they are asked for. Raises UserError."""
    name = repr(str(path))
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no picture {name}: check the name")
    if path.is_dir():
        raise UserError(f"{name} is a folder, not a picture: name a file in it")
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise UserError(f"the picture {name} is empty (0 bytes): replace it or leave it out")
        # Filters are the process's, not the thread's: without the lock two readers could leave each other's behind.
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"the picture {name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be meant to fill the "
            "memory: make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not a picture that can be read: use PNG, JPEG or WebP") from error
    except PermissionError as error:
        raise UserError(f"the picture {name} may not be read: check its permissions") from error
    except Exception as error:  # as in read_picture
        raise UserError(f"the picture {name} is broken ({error}): replace it or leave it out") from error
    if image.width < 1 or image.height < 1:
        image.close()
        raise UserError(f"the picture {name} has no extent ({image.width}x{image.height}): replace it or leave it out")
    return image


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode of Pillow's -> RGB, transparent parts on white."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip at 255, not scale
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise UserError(f"{name} has grey values beyond 16 bits: save it with 8 or 16 bits")
        image = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"{name} has floating-point grey values of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
