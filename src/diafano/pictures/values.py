"""A picture of any kind as values in [0, 1], colours and transparency apart, and as a picture of its kind again.

Grey pictures stay grey, 16 bits of grey stay 16 bits, and what is transparent stays so.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diafano.errors import UserError
from diafano.pictures.masks import filled
from diafano.pictures.pixels import as_rgb

Values = NDArray[np.float32]
MOST_16 = 65_535


@dataclass(frozen=True, eq=False)
class PictureValues:
    """The values of a picture."""

    colours: Values
    """(height, width, 3), in grey pictures three times the same. Where nothing is seen, the colours from around it:
    what lies there by chance must not get into what is seen when pixels are mixed."""
    alpha: Values | None
    """(height, width, 3), three times the same: 0 is transparent. None: all is seen."""
    mode: str
    """Pillow's, of the picture that `picture` makes: L, LA, RGB, RGBA or I;16."""

    def picture(self) -> Image.Image:
        if self.mode == "I;16":
            return Image.fromarray(np.rint(self.colours.mean(-1) * MOST_16).astype(np.uint16))
        colours = Image.fromarray(np.rint(self.colours * 255).astype(np.uint8))
        if self.mode in ("L", "LA"):  # the mean: these three are equal but for what a network made of them
            colours = Image.fromarray(np.rint(self.colours.mean(-1) * 255).astype(np.uint8))
        if self.alpha is not None:
            colours.putalpha(Image.fromarray(np.rint(self.alpha.mean(-1) * 255).astype(np.uint8)))
        return colours


def values_of(picture: Image.Image) -> PictureValues:
    """Raises UserError for floating-point grey, and for grey beyond 16 bits."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture)
        if grey.min() < 0 or grey.max() > MOST_16:
            raise UserError("the picture has grey values beyond 16 bits: save it with 8 or 16 bits")
        return PictureValues(_shares(picture, MOST_16), None, "I;16")
    picture = plain_mode(picture)
    if picture.mode in ("L", "RGB"):
        return PictureValues(_shares(picture), None, picture.mode)
    seen = picture.getchannel("A")
    colours, unseen = picture.convert("RGBA").convert("RGB"), seen.point(lambda value: 0 if value else 255)
    if unseen.getbbox() is not None:
        colours = filled(colours, unseen)
    return PictureValues(_shares(colours), _shares(seen), picture.mode)


def plain_mode(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes as L, LA, RGB, RGBA or I;16, whichever holds all that is in it.

    Raises UserError for floating-point grey, whose range is unknown.
    """
    if picture.mode.startswith("I"):
        return picture
    if picture.has_transparency_data:
        return picture.convert("LA" if picture.mode in ("1", "L", "LA", "La") else "RGBA")
    return picture.convert("L") if picture.mode in ("1", "L") else as_rgb(picture)


def _shares(picture: Image.Image, most: int = 255) -> Values:
    """(height, width, 3): of the largest value; grey three times."""
    values = np.asarray(picture).astype(np.float32) / np.float32(most)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
