"""Outpainting: a canvas larger than the picture, whose new parts are drawn as a mask says."""

import numpy as np
from PIL import Image

from diafano.pictures.sides import Sides

SOFT_EDGE = 4.0
"""Blur of the mask, in pixels, where none is said: a hard edge would show as a line."""


def enlarged(picture: Image.Image, sides: Sides, mask: Image.Image | None = None) -> tuple[Image.Image, Image.Image]:
    """The picture on a larger canvas, and the mask of what is new there, besides that of the picture if it has one.

    The new parts repeat the picture's outermost pixels.
    """
    ((top, bottom), (left, right)) = edges = (sides.top, sides.bottom), (sides.left, sides.right)
    canvas = Image.fromarray(np.pad(np.asarray(picture), (*edges, (0, 0)), mode="edge"))
    white = Image.new("L", canvas.size, 255)
    white.paste(Image.new("L", picture.size, 0) if mask is None else mask, (left, top))
    assert canvas.size == (picture.width + left + right, picture.height + top + bottom)
    return canvas, white
