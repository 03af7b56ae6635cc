"""What A1111's text says of the controls of a request, both ways."""

from collections.abc import Sequence

from diafano.sampling.control import Control

UNIT, PICTURES = "ControlNet ", "Control pictures"
"""What the settings of controls are called: the former with a number, from 0, as A1111 does."""


def controls_as_infotext(controls: Sequence[Control]) -> dict[str, object]:
    """A1111's settings that tell of the controls."""
    if not controls:
        return {}
    units: dict[str, object] = {f"{UNIT}{index}": control.recorded() for index, control in enumerate(controls)}
    return units | {PICTURES: ", ".join(control.picture_hash for control in controls)}


def control_from_infotext(text: str) -> dict[str, str]:
    """`Control.recorded` taken apart: A1111's keys, in lower case, and their values."""
    pairs = (pair.partition(":") for pair in text.split(","))
    return {key.strip().lower(): value.strip() for key, colon, value in pairs if colon}
