"""Parts of a request that belong together: drawing over a picture, variations.

Each part has its fields, its keyword arguments, and what A1111's text calls them.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from diafano.errors import UserError
from diafano.outpainting import Sides, read_sides

MASKED_CONTENT = ("original", "fill", "latent noise", "latent nothing")


def _content(value: object) -> object:
    return " ".join(value.lower().replace("-", " ").replace("_", " ").split()) if isinstance(value, str) else value


def _sides(value: object) -> object:
    return None if value is None else read_sides(value)


Share = Annotated[float | None, Field(strict=True, ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")]
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
    """How a picture is drawn over; see `from_picture`. Nothing of it is for pictures from text alone."""

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
    """A second seed, whose start noise the first one's is led to; see `variations`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variation_seed: Seed | None = None
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


def recorded_variation(request: Variation, place: int) -> dict[str, object | None]:
    """What A1111's text says of it, for the picture at that place."""
    if not request.varies or request.variation_seed is None:
        return {}
    return {
        "Variation seed": request.variation_seed + place,
        "Variation seed strength": request.variation_strength,
    }


def recorded_parts(request: OverPicture) -> dict[str, object | None]:
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
    ("Mask blur", "mask_blur", float),
    ("Mask mode", "invert_mask", lambda said: said == "Inpaint not masked"),
    ("Masked content", "masked_content", str),
    ("Inpaint area", "only_masked", lambda said: said == "Only masked"),
    ("Masked area padding", "mask_padding", int),
    ("Outpaint", "outpaint", str),
)
"""A1111's name, the setting, and how its text becomes the setting's value."""
