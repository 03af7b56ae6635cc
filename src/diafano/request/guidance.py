"""How strictly the prompt is followed, step by step: as it is typed, kept and recorded. `sampling.guidance` does it."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

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


GuidanceOfSteps = Annotated[float | tuple[float, ...], BeforeValidator(_guidance)]
"""Several numbers lie evenly over the steps, with straight lines between them."""
Interval = Annotated[tuple[float, float] | None, BeforeValidator(_interval)]


def first_guidance(guidance: float | tuple[float, ...]) -> float:
    """What A1111 has a name for."""
    return guidance[0] if isinstance(guidance, tuple) else guidance


def guidance_schedule(guidance: float | tuple[float, ...]) -> str | None:
    """``7:3`` of several numbers, None of one."""
    return ":".join(map(_written, guidance)) if isinstance(guidance, tuple) else None


def interval_text(interval: tuple[float, float]) -> str:
    """``0.2,0.8``."""
    return ",".join(map(_written, interval))


def _written(number: float) -> str:
    return repr(number).removesuffix(".0")
