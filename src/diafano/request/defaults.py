"""What follows from a picture, or from the model, where a request leaves it open."""

from collections.abc import Callable

from PIL import Image

from diafano.errors import UserError
from diafano.pictures.outpainting import SOFT_EDGE, read_sides
from diafano.request.fields import OverPicture
from diafano.request.request import Settings

STRENGTH = 0.75
"""A1111's and diffusers' choice (diffusers': 0.8) where none is given: the composition stays, the details do not."""


def check_no_picture_is_needed(settings: Settings, mask: Image.Image | None) -> None:
    """Raise UserError where there is a mask, or a setting that means something only for a picture to draw over."""
    needless = [name for name in OverPicture.model_fields if settings.get(name) not in (None, False)]
    if mask is not None or needless:
        raise UserError(
            f"{', '.join(needless) or 'a mask'}: that is for an image to draw over, so give one, or leave it out"
        )


def image_to_image_settings(
    settings: Settings,
    picture: Image.Image,
    mask: Image.Image | None,
    nearest_size: Callable[[tuple[int, int]], tuple[int, int]],
    model_size: tuple[int, int],
) -> Settings:
    """The settings with what follows from the picture where they leave it open: the size to draw, strength, blur.

    Raises UserError for settings that need a mask where there is none, and for a mask of another size.
    """
    if settings.get("hires") is not None or settings.get("hires_size") is not None:
        raise UserError("a second pass follows a picture drawn from text: leave out the image, or hires")
    given: Settings = {**settings}
    sides = settings.get("outpaint")
    if mask is None:
        needless = [
            name
            for name in ("mask_blur", "masked_content", "invert_mask", "only_masked", "mask_padding")
            if settings.get(name) not in (None, False) and (sides is None or name == "invert_mask")
        ]
        if needless:
            raise UserError(f"{', '.join(needless)}: that is for a mask, so give one, or leave it out")
    elif mask.size != picture.size:
        raise UserError(
            f"the mask has {mask.size[0]}x{mask.size[1]} pixels and the picture {picture.size[0]}x{picture.size[1]}:"
            " make them of one size"
        )
    width, height = picture.size
    if sides is not None:
        left, top, right, bottom = given["outpaint"] = read_sides(sides)
        width, height = left + width + right, top + height + bottom
        if settings.get("mask_blur") is None:
            given["mask_blur"] = SOFT_EDGE
    if settings.get("size") is None:
        given["size"] = model_size if settings.get("only_masked") else nearest_size((width, height))
    if settings.get("strength") is None:
        given["strength"] = STRENGTH if sides is None else 1.0  # nothing of the repeated edges is to stay
    return given
