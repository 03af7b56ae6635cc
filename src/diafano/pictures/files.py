"""Input and output: picture files <-> pixels in [-1, 1].

A picture is a PIL image; pixels are what networks see: a float32 tensor (3, height, width), red, green, blue, each in
[-1, 1]. Whatever a file holds (palette, transparency, 16 bits, a camera's rotation flag) ends here: everything after
`read_picture` is upright 8-bit RGB.

A drawn picture carries the settings that drew it as A1111's text: in PNG the text chunk `parameters`, in JPEG and WebP
EXIF's UserComment.
"""

import os
import threading
import warnings
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from diafano.errors import UserError
from diafano.files import check_file, new_file, reason, refusal, shortened, whole_file
from diafano.pictures.masks import as_mask
from diafano.pictures.metadata import FORMATS, PARAMETERS, check_extent, metadata, parameters_of, with_parameters
from diafano.pictures.pixels import _as_rgb
from diafano.pictures.values import plain_mode

# 95 and full colour resolution: crisp edges on flat colours show JPEG's and WebP's losses at their worst.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95, "method": 4},
}


_warning_filters = threading.Lock()


PROFILED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16")
"""Modes whose colour profile still describes the picture when it is read."""


# ---- files


GivenPicture = Image.Image | str | os.PathLike[str]
"""A picture, or the path of its file."""


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
        raise UserError(f"the picture {str(path)!r} is broken ({reason(error)}): replace it or leave it out") from error


def read_whole_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file, upright, with its transparency, its grey, its 16 bits of grey and its settings.

    Its mode is L, LA, RGB, RGBA or one of 16 bits of grey. Raises UserError as `read_picture` does.
    """
    image = _open(path)
    try:
        with image:
            image.load()
            parameters = parameters_of(image)
            upright = ImageOps.exif_transpose(image)
            whole = plain_mode(upright)
            profile = upright.info.get("icc_profile") if image.mode in PROFILED else None
            whole.info = {} if profile is None else {"icc_profile": profile}
            return whole if parameters is None else with_parameters(whole, parameters)
    except UserError:
        raise
    except Exception as error:  # as in read_picture
        raise UserError(f"the picture {str(path)!r} is broken ({reason(error)}): replace it or leave it out") from error


def read_mask(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file as a mask, upright and grey: see `masks.as_mask`. Raises UserError as `read_picture` does."""
    image = _open(path)
    try:
        with image:
            return as_mask(ImageOps.exif_transpose(image), f"the mask {str(path)!r}")
    except UserError:
        raise
    except Exception as error:  # as in read_picture
        raise UserError(f"the mask {str(path)!r} is broken ({reason(error)}): replace it or leave it out") from error


def opened(given: GivenPicture, what: str = "the image", *, mask: bool = False) -> Image.Image:
    """A picture that was given as itself, or as the path of its file. Raises UserError for anything else."""
    if isinstance(given, Image.Image):
        return given
    if isinstance(given, str | os.PathLike):
        return read_mask(given) if mask else read_picture(given)
    kind = type(given)
    raise UserError(
        f"{what} is a {kind.__module__}.{kind.__qualname__}: give a PIL image (`PIL.Image.fromarray` makes one of an"
        " array), or the path of a picture file"
    )


def save_picture(
    picture: Image.Image, path: str | os.PathLike[str], parameters: str | None = None, *, keep_kind: bool = False
) -> None:
    """Write a picture as PNG, JPEG or WebP, whichever the file name's suffix says, with its settings inside.

    The file is written beside its target and moved into place, so nobody ever sees half a picture. `parameters` is
    A1111's text; None takes what the picture carries (`picture.info["parameters"]`), if anything. With `keep_kind` what
    the format can hold stays of transparency, of grey and of 16 bits; without, it becomes 8-bit RGB on white.

    Raises UserError for an unknown suffix and a folder that is not there; of its kinds FormatError for settings too
    long, and a picture too large, for the format.
    """
    path = Path(path)
    check_target(path)
    try:
        with whole_file(path) as unfinished:
            _write(picture, unfinished, path, parameters, keep_kind)
    except OSError as error:
        raise _unwritten(path, error) from error


def save_new_picture(
    picture: Image.Image, names: Iterable[Path], parameters: str | None = None, *, keep_kind: bool = False
) -> Path:
    """Write a picture like `save_picture`, under the first of the names that no file has, and return that name.

    The names differ in nothing but the stem; no picture is ever replaced, however many write into the folder at once.
    """
    names = iter(names)
    first = next(names)
    check_target(first)
    try:
        with new_file(chain([first], names)) as (unfinished, taken):
            _write(picture, unfinished, first, parameters, keep_kind)
    except OSError as error:
        raise _unwritten(first, error) from error
    return taken[0]


def _write(
    picture: Image.Image, unfinished: Path, target: Path, parameters: str | None, keep_kind: bool = False
) -> None:
    if parameters is None:
        parameters = picture.info.get(PARAMETERS)
    file_format = FORMATS[target.suffix.lower()]
    check_extent(picture.size, file_format)
    options = SAVE_OPTIONS[file_format] | metadata(file_format, parameters)
    made = _of_kind(picture, file_format) if keep_kind else _as_rgb(picture, "the picture")
    if keep_kind and "icc_profile" in picture.info:
        options["icc_profile"] = picture.info["icc_profile"]
    with unfinished.open("xb") as file:
        made.save(file, format=file_format, **options)


def _of_kind(picture: Image.Image, file_format: str) -> Image.Image:
    """The picture in the mode that is nearest to its own of those that the format has."""
    plain = plain_mode(picture)
    if file_format == "PNG" or (plain.mode, file_format) in (("L", "JPEG"), ("RGBA", "WEBP")):
        return plain
    if plain.mode == "LA":
        plain = plain.convert("RGBA")
        return plain if file_format == "WEBP" else _as_rgb(plain, "the picture")
    return _as_rgb(plain, "the picture")


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise UserError unless a picture can be written to `path`: to be asked before the work, not after it."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"cannot tell the picture format of {str(path)!r}: end it with one of {', '.join(FORMATS)}")
    check_file(path, "a picture file")


def _unwritten(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the picture: {refusal(error, path)}")


def read_parameters(path: str | os.PathLike[str]) -> str | None:
    """The settings text that a picture file carries, or None. Raises UserError for a file that is no picture."""
    try:
        with _open(path) as image:
            image.load()  # PNG allows text chunks after the pixels
            return parameters_of(image)
    except UserError:
        raise
    except Exception as error:  # as in read_picture
        raise UserError(f"the picture {str(path)!r} is broken ({reason(error)}): replace it or leave it out") from error


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """All texts that a picture file carries, by their names. Raises UserError as `read_parameters` does."""
    try:
        with _open(path) as image:
            image.load()
            return {str(name): text for name, text in image.info.items() if isinstance(text, str)}
    except UserError:
        raise
    except Exception as error:  # as in read_picture
        raise UserError(f"the picture {str(path)!r} is broken ({reason(error)}): replace it or leave it out") from error


# ---- inside Pillow


def _open(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file's header; pixels follow when they are asked for. Raises UserError."""
    name = shortened(path)
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"there is no picture {name}: check the name")
        if path.is_dir():
            raise UserError(f"{name} is a folder, not a picture: name a file in it")
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
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Pillow's have no number
            raise UserError(f"the picture {refusal(error, path)}") from error
        raise UserError(f"the picture {name} is broken ({reason(error)}): replace it or leave it out") from error
    if image.width < 1 or image.height < 1:
        image.close()
        raise UserError(f"the picture {name} has no extent ({image.width}x{image.height}): replace it or leave it out")
    return image
