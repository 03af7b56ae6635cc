"""What follows from a picture, or from the model, where a request leaves it open."""

import re
import secrets
from collections.abc import Callable

from PIL import Image

from diafano.errors import UserError, checked, note
from diafano.pictures.outpainting import SOFT_EDGE
from diafano.pictures.sides import read_sides
from diafano.request.card import ModelCard
from diafano.request.fast import with_level
from diafano.request.fields import LARGEST_EDGE, SMALLEST_EDGE
from diafano.request.plan import sizes_of
from diafano.request.programs.table import find_program
from diafano.request.request import Request, Settings, split_sampler_name
from diafano.request.settings import ImageToImage
from diafano.sampling.samplers.table import SAMPLERS, find_sampler
from diafano.sampling.sigmas import AUTOMATIC

STRENGTH = 0.75
"""A1111's and diffusers' choice (diffusers': 0.8) where none is given: the composition stays, the details do not."""

SIZES = frozenset({"size", "hires", "hires_size"})
"""Settings that say how large a picture is to be: then the card's `upscale` does not matter."""

FAR = 2.0
"""So many times larger or smaller than the model's own size is said to be far from it."""

WILDCARD = re.compile(r"\{[^{}|]*\|[^{}]*\}|(?<!\w)__[\w*/-]*[a-zA-Z*][\w*/-]*__(?!\w)")
"""``{red|blue}`` and ``__colours__`` of dynamic prompts."""


def complete(prompt: str, settings: Settings, card: ModelCard, size_step: int) -> Request:
    """The checked request: settings that are None or left out come from the model's card.

    A sampler other than the card's, a program to draw like and the schedule "automatic" bring the schedule that the
    sampler is usually run with. Width and height must be multiples of `size_step` pixels.
    """
    automatic = str(settings.get("schedule")).strip().lower() == AUTOMATIC
    given = split_sampler_name(with_level({name: value for name, value in settings.items() if value is not None}))
    fields = {
        "steps": card.steps,
        "guidance": card.guidance,
        "sampler": card.sampler,
        "schedule": card.schedule,
        "size": card.size,
        "seed": secrets.randbelow(2**32),
        "variation_seed": secrets.randbelow(2**32) if "variation_strength" in given else None,
        **given,
        "prompt": prompt,
    }
    if card.upscale != 1 and not SIZES & given.keys():
        fields = {"upscale": card.upscale, **fields}
    request = checked(Request, fields)
    sampler = find_sampler(request.sampler)
    program = find_program(request.like)
    if "schedule" not in given and (automatic or request.like or request.sampler != card.sampler):
        request = request.model_copy(update={"schedule": program.automatic(sampler)})
    if (difference := program.check(sampler)) is not None:
        note(difference)
    numbers = request.guidance if isinstance(request.guidance, tuple) else (request.guidance,)
    if min(numbers) < 1 and not program.guides_above_1:
        note(
            f"guidance {min(numbers):g} leads away from the prompt, towards the negative one, which stands alone at 0:"
            " use 1 for the prompt alone, more to follow it more strictly"
        )
    for option, value in request.sampler_options.items():
        if option not in sampler.options:
            raise UserError(
                f"the sampler {sampler.name} has no {option}, but {value} was given: leave it out, or use"
                f" {', '.join(other.name for other in SAMPLERS.values() if option in other.options)}"
            )
    sizes_of(request, size_step)  # which says where a second pass is not possible
    if any(edge % size_step for edge in request.size):
        width, height = nearest_size(request.size, size_step)
        raise UserError(
            f"size {request.size[0]}x{request.size[1]} is not possible: width and height must be multiples of"
            f" {size_step}, such as {width}x{height}"
        )
    _tell_of_size(request.size, card)
    _tell_of_wildcards(request)
    return request


def _tell_of_size(size: tuple[int, int], card: ModelCard) -> None:
    """A model knows pictures of about the size that it was trained at: far from it, things come twice or in pieces."""
    shares = [edge / usual for edge, usual in zip(size, card.size, strict=True)]
    if max(shares) > FAR or min(shares) < 1 / FAR:
        usual = "x".join(map(str, card.size))
        larger = f"draw {usual} and enlarge it with hires" if max(shares) > FAR else f"draw {usual} and make it smaller"
        note(f"{size[0]}x{size[1]} is far from {usual}, which the model draws best: things may repeat; {larger}")


def _tell_of_wildcards(request: Request) -> None:
    """Other programs' add-ons put a word by chance in these places."""
    if (found := WILDCARD.search(f"{request.prompt}\n{request.negative}")) is not None:
        note(
            f"{found[0]!r} is drawn as it stands: alternatives and wildcards are not filled in here; a file of prompts"
            " (--prompts) draws one picture for each"
        )


def nearest_size(size: tuple[int, int], step: int) -> tuple[int, int]:
    """(width, height) of a picture that can be drawn, nearest to `size` and of about its shape, in pixels."""
    largest = LARGEST_EDGE // step * step
    scale = min(max(1.0, SMALLEST_EDGE / min(size)), largest / max(size))
    width, height = (min(max(1, round(scale * edge / step)) * step, largest) for edge in size)
    return width, height


def check_no_picture_is_needed(settings: Settings, mask: Image.Image | None) -> None:
    """Raise UserError where there is a mask, or a setting that means something only for a picture to draw over."""
    needless = [name for name in ImageToImage.model_fields if settings.get(name) not in (None, False)]
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

    Raises UserError for settings that need a mask where there is none, and for a mask of another shape.
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
    elif not _same_shape(mask.size, picture.size):
        raise UserError(
            f"the mask has {mask.size[0]}x{mask.size[1]} pixels and the picture {picture.size[0]}x{picture.size[1]}:"
            " make them of one shape"
        )
    width, height = picture.size
    if sides is not None:
        left, top, right, bottom = given["outpaint"] = read_sides(sides)
        width, height = left + width + right, top + height + bottom
        if settings.get("mask_blur") is None:
            given["mask_blur"] = SOFT_EDGE
    if settings.get("size") is None:
        size = given["size"] = model_size if settings.get("only_masked") else nearest_size((width, height))
        if min(size) < SMALLEST_EDGE:
            raise UserError(
                f"the image of {width}x{height} pixels is too long and thin to be drawn in its own shape, as width and"
                f" height are {SMALLEST_EDGE} to {LARGEST_EDGE}: cut it, or give a size"
            )
    if settings.get("strength") is None:
        given["strength"] = STRENGTH if sides is None else 1.0  # nothing of the repeated edges is to stay
    return given


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a picture of the first size, scaled to the second's height, has its width but for a pixel's rounding."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(one[1], other[1])
