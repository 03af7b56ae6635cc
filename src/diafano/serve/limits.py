"""What a client may ask for at most, and how pictures that it sends are read."""

import base64
import binascii
import io
import re
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

from diafano.errors import UserError
from diafano.jobs.queue.job import Order
from diafano.pictures.masks import as_mask
from diafano.pictures.pixels import as_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Of one request."""

    body: int = 64 * MIB
    """Bytes."""
    pixels: int = 4096 * 4096
    """Of a picture that is sent."""
    prompt: int = 32_000
    """Characters of a prompt."""
    steps: int = 150
    drawn: int = 16 * 2**20
    """Pixels of all pictures of a job."""

    def check_text(self, *texts: str) -> None:
        """Raises UserError, one sentence, for prompts that are longer."""
        for text in texts:
            if len(text) > self.prompt:
                raise UserError(f"the prompt has {len(text)} characters: give at most {self.prompt}")

    def check(self, order: Order) -> None:
        """Raises UserError, one sentence, for more than that."""
        size, steps, count = order.settings["size"], order.settings["steps"], order.count
        if steps > self.steps:
            raise UserError(f"steps {steps} is not possible on this server: give at most {self.steps}")
        if size[0] * size[1] * count > self.drawn:
            raise UserError(
                f"{count} of {size[0]}x{size[1]} pixels are too much for one job on this server: it draws at most"
                f" {self.drawn / 2**20:g} megapixels"
            )


def from_base64(text: str, limits: Limits, what: str = "the image") -> Image.Image:
    """A picture that came as text, with or without ``data:image/png;base64,`` before it, as it is in its file.

    Nothing is fetched and nothing opened: an address or a path is refused. Raises UserError, one sentence.
    """
    if re.match(r"(?i)\s*(https?|ftp|file):", text):
        raise UserError(f"{what} is an address: send the picture itself, as base64")
    encoded = re.sub(r"\s+", "", text.partition(",")[2] if text.lstrip()[:5].lower() == "data:" else text)
    encoded = encoded.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{what} is no base64 text: send the picture's file as base64") from None
    return from_bytes(data, limits, what)


def from_bytes(data: bytes, limits: Limits, what: str = "the image") -> Image.Image:
    """A picture of a file's bytes, upright; its size is looked at before it is unpacked. Raises UserError."""
    if not data:
        raise UserError(f"{what} is empty: send the picture's file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(f"{what} has too many pixels: send one of at most {limits.pixels / 1e6:.1f} million") from None
    except Exception:  # Pillow's readers meet broken data with whatever error it happens to cause
        raise UserError(f"{what} is no picture in {', '.join(FORMATS)}: send one of these") from None
    if picture.width * picture.height > limits.pixels:
        raise UserError(
            f"{what} has {picture.width}x{picture.height} pixels: send one of at most {limits.pixels / 1e6:.1f} million"
        )
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:
        raise UserError(f"{what} is broken ({error}): send it again") from None


def picture_of(given: Image.Image, what: str = "the image") -> Image.Image:
    """RGB; transparent parts lie on white."""
    return as_rgb(given, what)


def mask_of(given: Image.Image, size: tuple[int, int], what: str = "the mask") -> Image.Image:
    """White where it is drawn anew, of the size (width, height) of the picture that it belongs to."""
    mask = as_mask(given, what)
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def clear_parts(given: Image.Image) -> Image.Image | None:
    """A mask that is white where the picture is transparent, as OpenAI's interface means it; None: nowhere."""
    if "A" not in given.getbands() and "transparency" not in given.info:
        return None
    alpha = given.convert("RGBA").getchannel("A")
    if alpha.getextrema()[0] == 255:
        return None
    return ImageOps.invert(alpha)
