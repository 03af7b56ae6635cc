"""The settings that a picture carries, in PNG, JPEG and WebP."""

import os
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from diafano.errors import UserError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffix of a file name -> Pillow's name of the format that is written."""
PARAMETERS = "parameters"
"""Name of A1111's text chunk, and of the entry in `Image.info` under which Pillow hands it over."""
USER_COMMENT_UNICODE = b"UNICODE\0"
USER_COMMENT_JIS = b"JIS\0\0\0\0\0"
USER_COMMENT_ASCII = b"ASCII\0\0\0"
LONGEST_EXIF = 65_000
"""Bytes of user comment that fit into a JPEG segment (65,533 in all) beside the rest of the EXIF block."""


LARGEST_EDGES = {"JPEG": 65_500, "WEBP": 16_383}
"""Pixels of the widest and highest picture that a format can hold, where that can be met."""


class FormatError(UserError):
    """A picture, or what goes with it, does not fit into the file's format; PNG takes it."""


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
            raise FormatError(
                f"the settings ({len(parameters)} characters) are too long for a {file_format} file: save as PNG"
            )
        exif = Image.Exif()
        exif[ExifTags.IFD.Exif] = {int(ExifTags.Base.UserComment): comment}
        return {"exif": exif}
    return {}


def parameters_of(image: Image.Image) -> str | None:
    """The settings text that a picture carries, whose pixels are loaded; None: it carries none."""
    if isinstance(text := image.info.get(PARAMETERS), str):
        return str(text)
    return _comment_text(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment))


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
    if code == USER_COMMENT_JIS:
        return None
    # Of programs that leave the encoding out, or say that it is undefined (eight zeros).
    text = comment.strip(b"\0")
    try:
        return text.decode("utf-8") if text else None
    except UnicodeDecodeError:
        return None


def check_extent(size: tuple[int, int], file_format: str) -> None:
    """Raises FormatError for a picture of that width and height, in pixels, that is too large for the format."""
    largest = LARGEST_EDGES.get(file_format)
    if largest is not None and max(size) > largest:
        raise FormatError(
            f"a picture of {size[0]}x{size[1]} pixels is too large for a {file_format} file, whose edges are at most"
            f" {largest:,}: save as PNG"
        )
