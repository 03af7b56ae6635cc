"""Parts of a request that belong together: drawing over a picture, variations, a second pass.

Each part has its fields, its keyword arguments, and what A1111's text calls them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from diafano.errors import UserError
from diafano.pictures.outpainting import Sides, read_sides
from diafano.pictures.upscaling import find_upscaler

HIRES_STRENGTH = 0.7
"""A1111's: a latent that was enlarged is blurred, and less would leave it so."""

MASKED_CONTENT = ("original", "fill", "latent noise", "latent nothing")


SMALLEST_EDGE, LARGEST_EDGE = 64, 2048  # pixels


def _size(value: object) -> object:
    """``"512x768"`` or a pair of whole numbers -> (width, height)."""
    pair: Any = value
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", value.lower())):
        pair = tuple(int(edge) for edge in match.groups())
    if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(type(edge) is int for edge in pair)):
        raise UserError(f"size {value!r} is not possible: give width and height, such as 512x512")
    if not all(SMALLEST_EDGE <= edge <= LARGEST_EDGE for edge in pair):
        raise UserError(
            f"size {pair[0]}x{pair[1]} is not possible: width and height are {SMALLEST_EDGE} to {LARGEST_EDGE} pixels"
        )
    return tuple(pair)


def _content(value: object) -> object:
    return " ".join(value.lower().replace("-", " ").replace("_", " ").split()) if isinstance(value, str) else value


def _upscaler(value: object) -> object:
    return find_upscaler(value).label if isinstance(value, str) else value


def _sides(value: object) -> object:
    return None if value is None else read_sides(value)


SHARE = Field(strict=True, ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")
Share = Annotated[float | None, SHARE]
SEED = Field(strict=True, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")
Seed = Annotated[int, SEED]
Size = Annotated[tuple[int, int], BeforeValidator(_size), Field(description="width and height, such as 512x512")]
STEPS = Field(strict=True, ge=1, le=1000, description="a whole number from 1 to 1000")
Steps = Annotated[int, STEPS]
Factor = Annotated[
    float | None, Field(strict=True, ge=1, le=32, allow_inf_nan=False, description="a number from 1 to 32")
]
UpscalerName = Annotated[str, BeforeValidator(_upscaler), Field(strict=True, description="the name of an upscaler")]
Pixels = Annotated[
    float, Field(strict=True, ge=0, le=256, allow_inf_nan=False, description="pixels, a number from 0 to 256")
]
Padding = Annotated[int, Field(strict=True, ge=0, le=2048, description="pixels, a whole number from 0 to 2048")]
Content = Annotated[
    Literal["original", "fill", "latent noise", "latent nothing"],
    BeforeValidator(_content),
    Field(description=f"one of {', '.join(MASKED_CONTENT)}"),
]


class OverPicture(BaseModel):
    """How a picture is drawn over; see `sampling.init_image`. Nothing of it is for pictures from text alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strength: Share = None
    """Share of the steps that are run over the picture; None: there is none."""
    mask_blur: Pixels = 0.0
    """Radius, in pixels of the picture, of the soft edge around the mask's white."""
    masked_content: Content = "original"
    """What stands inside the mask before it is drawn over."""
    invert_mask: bool = False
    """Whether black is drawn anew, not white."""
    only_masked: bool = False
    """Whether a window around the mask is drawn at full size, not the whole picture."""
    mask_padding: Padding = 32
    """Pixels of the picture around the mask that this window shows."""
    outpaint: Annotated[Sides | None, BeforeValidator(_sides)] = None
    """Pixels that are added on each side of the picture."""


class OverPictureSettings(TypedDict, total=False):
    """Its keyword arguments. None is as if it were left out."""

    strength: float | None
    mask_blur: float | None
    masked_content: str | None
    invert_mask: bool | None
    only_masked: bool | None
    mask_padding: int | None
    outpaint: str | Mapping[str, int] | Sides | None


class Variation(BaseModel):
    """A second seed, whose start noise the first one's is led to; see `noise.variations`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variation_seed: Annotated[int | None, SEED] = None
    """Picture i's start noise is led to that of this seed + i; where strength is above 0, `seed` itself stays."""
    variation_strength: Share = None
    """How far: 0 is `seed`'s own noise, 1 the other's."""

    @model_validator(mode="after")
    def _seed_and_strength_belong_together(self) -> Self:
        if (self.variation_seed is None) != (self.variation_strength is None):
            raise UserError("variation_seed and variation_strength belong together: give both, or none of them")
        return self

    @property
    def varies(self) -> bool:
        return bool(self.variation_strength)


class VariationSettings(TypedDict, total=False):
    """Its keyword arguments. None is as if it were left out."""

    variation_seed: int | None
    variation_strength: float | None


def variation_as_infotext(request: Variation, place: int) -> dict[str, object | None]:
    """What A1111's text says of it, for the picture at that place."""
    if not request.varies or request.variation_seed is None:
        return {}
    return {
        "Variation seed": request.variation_seed + place,
        "Variation seed strength": request.variation_strength,
    }


class SecondPass(BaseModel):
    """A second pass at a larger size, over what the first one has drawn; see `sampling.hires`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hires: Factor = None
    """How many times larger, where `hires_size` does not say it; None in both: there is no second pass."""
    hires_size: Size | None = None
    """(width, height) in pixels."""
    hires_steps: Annotated[int | None, STEPS] = None
    """Steps of the second pass; None: as many as of the first."""
    hires_strength: Annotated[float, SHARE] = HIRES_STRENGTH
    """As `strength`, of the second pass."""
    hires_upscaler: UpscalerName = "Latent"

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.hires is not None and self.hires_size is not None:
            raise UserError("hires and hires_size both say how large the second pass is: leave one of them out")
        if self.hires is None and self.hires_size is None:
            needless = {"hires_steps", "hires_strength", "hires_upscaler"} & self.model_fields_set
            if needless:
                raise UserError(
                    f"{', '.join(sorted(needless))}: that is for a second pass, so give hires or hires_size too"
                )
        return self


class SecondPassSettings(TypedDict, total=False):
    """Its keyword arguments. None is as if it were left out."""

    hires: float | None
    hires_size: tuple[int, int] | str | None
    hires_steps: int | None
    hires_strength: float | None
    hires_upscaler: str | None


def hires_as_infotext(request: SecondPass) -> dict[str, object | None]:
    """What A1111's text says of it."""
    if request.hires is None and request.hires_size is None:
        return {}
    size = request.hires_size
    return {
        "Denoising strength": request.hires_strength,
        "Hires upscale": request.hires,
        "Hires resize": None if size is None else f"{size[0]}x{size[1]}",
        "Hires steps": request.hires_steps,
        "Hires upscaler": request.hires_upscaler,
    }


def hires_from_infotext(pairs: Mapping[str, str], settings: dict[str, Any]) -> list[str]:
    """Mend what was read of a second pass: A1111 has one name for both strengths. Returns what is not known here."""
    if "hires" not in settings and "hires_size" not in settings:
        return []
    ignored = []
    if "strength" in settings:
        settings["hires_strength"] = settings.pop("strength")
    if settings.get("hires_steps") == 0:
        del settings["hires_steps"]
    try:
        find_upscaler(settings.get("hires_upscaler", "Latent"))
    except UserError:
        settings["hires_upscaler"] = "Lanczos"
        ignored.append(f"Hires upscaler: {pairs['Hires upscaler']} (Lanczos instead)")
    return ignored


def image_to_image_as_infotext(request: OverPicture) -> dict[str, object | None]:
    """What A1111's text says of them; None is left out. "Outpaint" is our own: A1111 has no name for it."""
    return {
        "Denoising strength": request.strength,
        "Mask blur": request.mask_blur or None,
        "Mask mode": "Inpaint not masked" if request.invert_mask else None,
        "Masked content": None if request.masked_content == "original" else request.masked_content,
        "Inpaint area": "Only masked" if request.only_masked else None,
        "Masked area padding": request.mask_padding if request.only_masked else None,
        "Outpaint": None if request.outpaint is None else str(request.outpaint),
    }


READ_PARTS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("Variation seed", "variation_seed", int),
    ("Variation seed strength", "variation_strength", float),
    ("Denoising strength", "strength", float),
    ("Hires upscale", "hires", float),
    ("Hires resize", "hires_size", str),
    ("Hires steps", "hires_steps", int),
    ("Hires upscaler", "hires_upscaler", str),
    ("Mask blur", "mask_blur", float),
    ("Mask mode", "invert_mask", lambda said: said == "Inpaint not masked"),
    ("Masked content", "masked_content", str),
    ("Inpaint area", "only_masked", lambda said: said == "Only masked"),
    ("Masked area padding", "mask_padding", int),
    ("Outpaint", "outpaint", str),
)
"""A1111's name, the setting, and how its text becomes the setting's value."""
