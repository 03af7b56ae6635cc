"""The kinds of values that settings have: what is possible, the one form in which it is kept, the words for a mistake.

Names of samplers and the like are looked up where they live when a value is checked, not before: nothing here needs
torch.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from diafano.errors import UserError
from diafano.files import how_to_spell
from diafano.pictures.sides import Sides, read_sides

SMALLEST_EDGE, LARGEST_EDGE = 64, 2048  # pixels

LARGEST_SEED = 2**64 - 1
"""Of torch's generators, NVIDIA's and ComfyUI."""
SEED = "a whole number from 0 to 2^64 - 1, or leave it out for one by chance"

MASKED_CONTENT = ("original", "fill", "latent noise", "latent nothing")


def whole(lowest: int, highest: int | None = None, says: str | None = None) -> Any:
    """A whole number in these bounds, both possible; `says` are other words for them."""
    bounds = f"{lowest} on" if highest is None else f"{lowest} to {highest}"
    return Field(strict=True, ge=lowest, le=highest, description=says or f"a whole number from {bounds}")


def number(lowest: float, highest: float | None = None, says: str = "") -> Any:
    """A finite number in these bounds, both possible; `says` stands before the words for them."""
    bounds = f"{lowest:g} on" if highest is None else f"{lowest:g} to {highest:g}"
    said = f"{says}a number from {bounds}"
    return Field(strict=True, ge=lowest, le=highest, allow_inf_nan=False, description=said)


def switch() -> Any:
    """Yes or no."""
    return Field(strict=True, description="true or false")


def _text(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate, as from undecodable bytes on a command line
            raise UserError(f"the text {value!r} is not valid Unicode: {how_to_spell()}") from None
    return value


def _size(value: object) -> object:
    """``"512x768"``, also with * or the sign of multiplication, or a pair of whole numbers -> (width, height)."""
    pair: Any = value
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d{1,6})\s*[x\u00d7*]\s*(\d{1,6})\s*", value.lower())):
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


def _sides(value: object) -> object:
    return None if value is None else read_sides(value)


def _tileable(value: object) -> object:
    """One of `networks.tileable.AXES`; None for what says no."""
    from diafano.networks.tileable import AXES

    if isinstance(value, bool):
        return "both" if value else None
    name = value.strip().lower() if isinstance(value, str) else value
    if name not in (None, "no", *AXES):
        raise UserError(f"tileable {value!r} is not possible: use {', '.join(AXES)} or no")
    return None if name == "no" else name


def _named(find: Callable[[str], str]) -> BeforeValidator:
    """Any name that users have for it -> ours; what is no text is refused by the type."""
    return BeforeValidator(lambda value: find(value) if isinstance(value, str) else value)


def sampler_name(name: str) -> str:
    from diafano.sampling.samplers.table import find_sampler

    return find_sampler(name).name


def sampler_label(name: str) -> str:
    from diafano.sampling.samplers.table import find_sampler

    return find_sampler(name).label


def schedule_name(name: str) -> str:
    from diafano.sampling.sigmas import find_schedule

    return find_schedule(name).name


def schedule_label(name: str) -> str:
    from diafano.sampling.sigmas import find_schedule

    return find_schedule(name).label


def program_name(name: str) -> str:
    from diafano.request.programs.table import find_program

    return find_program(name).name


def upscaler_label(name: str) -> str:
    """A1111's label of an upscaler of the table; any other name is a file's, which the model knows or does not."""
    from diafano.pictures.upscaling import UPSCALERS, key_of

    found = UPSCALERS.get(key_of(name))
    return name.strip() if found is None else found.label


Text = Annotated[str, BeforeValidator(_text), Field(strict=True, description="text")]
Seed = Annotated[int, whole(0, LARGEST_SEED, SEED)]
SeedOrNone = Annotated[int | None, whole(0, LARGEST_SEED, SEED)]
Size = Annotated[tuple[int, int], BeforeValidator(_size), Field(description="width and height, such as 512x512")]
Steps = Annotated[int, whole(1, 1000)]
StepsOrNone = Annotated[int | None, whole(1, 1000)]
Count = Annotated[int, whole(1)]
Guidance = Annotated[float, number(0, 100)]
"""One number for all steps, as models' cards have it; `request.guidance` has what requests can say."""
Share = Annotated[float, number(0, 1)]
ShareOrNone = Annotated[float | None, number(0, 1)]
Amount = Annotated[float | None, number(0)]
SamplerName = Annotated[str, _named(sampler_name), Field(strict=True, description="the name of a sampler")]
ScheduleName = Annotated[str, _named(schedule_name), Field(strict=True, description="the name of a schedule")]
UpscalerNameOrNone = Annotated[str | None, _named(upscaler_label), Field(description="the name of an upscaler")]
UpscalerName = Annotated[str, _named(upscaler_label), Field(strict=True, description="the name of an upscaler")]
ProgramName = Annotated[str | None, _named(program_name), Field(description="the name of a program")]
Tileable = Annotated[str | None, BeforeValidator(_tileable), Field(description="both, x, y or no")]
MaskedContent = Annotated[
    Literal["original", "fill", "latent noise", "latent nothing"],
    BeforeValidator(_content),
    Field(description=f"one of {', '.join(MASKED_CONTENT)}"),
]
Outpaint = Annotated[Sides | None, BeforeValidator(_sides)]
