"""The part of a request that says how strictly the prompt is followed; `sampling.guidance` does it."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from diafano.errors import UserError

LARGEST = 100.0


def _guidance(value: object) -> object:
    """``7``, ``"7"``, ``"7:3"`` or ``[7, 5, 3]`` -> a number or several."""
    numbers = value.split(":") if isinstance(value, str) else value
    several = list(numbers) if isinstance(numbers, list | tuple) else [numbers]
    found = [_number(one) for one in several]
    if not found or not all(number is not None and 0 <= number <= LARGEST for number in found):
        raise UserError(
            f"guidance {value!r} is not possible: give a number from 0 to {LARGEST:g}, or several with colons between"
            " them, such as 7:3, to go from one to the next"
        )
    return found[0] if len(found) == 1 else tuple(found)


def _interval(value: object) -> object:
    """``"0.2,0.8"`` or a pair -> a pair of shares; None for all steps."""
    pair: Any = value.split(",") if isinstance(value, str) else value
    found = [_number(one) for one in pair] if isinstance(pair, list | tuple) else []
    if value is not None and not (len(found) == 2 and None not in found and 0 <= found[0] < found[1] <= 1):  # type: ignore[operator]
        raise UserError(
            f"guidance_interval {value!r} is not possible: give two shares of the steps from 0 to 1, the first one"
            " smaller, such as 0.2,0.8"
        )
    return None if value is None or found == [0.0, 1.0] else tuple(found)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class HowGuided(BaseModel):
    """How strictly the prompt is followed, step by step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    guidance: Annotated[float | tuple[float, ...], BeforeValidator(_guidance)]
    """1 is the prompt alone; several numbers lie evenly over the steps, with straight lines between them."""
    guidance_interval: Annotated[tuple[float, float] | None, BeforeValidator(_interval)] = None
    """Shares of the steps that are run, from which and up to which there is guidance; None: in all of them."""
    guidance_rescale: Annotated[
        float, Field(strict=True, ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")
    ] = 0.0
    """How far the guided prediction gets back the spread that the one with the prompt alone has."""


class HowGuidedSettings(TypedDict, total=False):
    """Its keyword arguments. None is as if it were left out."""

    guidance: float | str | Sequence[float] | None
    guidance_interval: tuple[float, float] | str | None
    guidance_rescale: float | None


def guidance_as_infotext(request: HowGuided) -> dict[str, object | None]:
    """What a picture's text says of it; A1111 has a name for the first alone."""
    several = request.guidance if isinstance(request.guidance, tuple) else None
    interval = request.guidance_interval
    return {
        "CFG scale": request.guidance if several is None else several[0],
        "Guidance schedule": None if several is None else ":".join(map(_written, several)),
        "Guidance interval": None if interval is None else ",".join(map(_written, interval)),
        "Guidance rescale": request.guidance_rescale or None,
    }


def _written(number: float) -> str:
    return repr(number).removesuffix(".0")


READ_GUIDANCE: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("CFG scale", "guidance", float),
    ("Guidance schedule", "guidance", str),
    ("Guidance interval", "guidance_interval", str),
    ("Guidance rescale", "guidance_rescale", float),
)
"""A1111's name, the setting, and how its text becomes the setting's value; the second replaces the first."""
