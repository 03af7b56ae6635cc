"""The sides of a picture, and how many pixels are to be added on each."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from diafano.errors import UserError


class Sides(NamedTuple):
    """Pixels to add on each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __str__(self) -> str:
        return ",".join(f"{side}={pixels}" for side, pixels in self._asdict().items() if pixels)


def read_sides(said: object) -> Sides:
    """``"left=64,top=32"``, ``"all=64"`` or the same as a mapping -> pixels a side. Raises UserError."""
    if isinstance(said, Sides):
        return said
    pairs: dict[object, object] = {}
    if isinstance(said, str):
        for part in re.split(r"\s*,\s*|\s+", said.strip()):
            side, _, pixels = part.partition("=")
            pairs[side.strip().lower()] = int(pixels) if re.fullmatch(r"\d{1,5}", pixels.strip()) else pixels
    elif isinstance(said, Mapping):
        pairs = dict(said)
    everywhere = pairs.pop("all", 0)
    sides = dict.fromkeys(Sides._fields, everywhere) | pairs
    good = sides.keys() == set(Sides._fields) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in sides.values()
    )
    if not good or not any(sides.values()):
        raise UserError(f"outpaint {said!r} is not possible: give sides and pixels, such as left=64,top=32 or all=64")
    return Sides(**sides)  # type: ignore[arg-type]
