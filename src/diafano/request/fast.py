"""Faster, for a price: levels of settings that give up some exactness. docs/fast.md has what each saves and costs.

They are settings like any others: what is said besides a level stays as it is said, and a picture records the settings,
not the level.
"""

from collections.abc import Mapping

from diafano.errors import UserError

LEVELS: dict[int, dict[str, object]] = {
    0: {},
    1: {"sampler": "uni_pc", "steps": 25},
    2: {"sampler": "uni_pc", "steps": 25, "deep_cache": 2},
    3: {"sampler": "uni_pc", "steps": 15, "deep_cache": 3},
}
"""Level -> the settings that it stands for, unless they are given; 0 is the exact picture."""

CHOSEN_BY = {"like": "sampler"}
"""Settings that bring others, which a level then leaves alone."""


def with_level(given: Mapping[str, object]) -> dict[str, object]:
    """The settings with those of their level, if they have one, in its place. Raises UserError for one there is not."""
    settings = dict(given)
    level = settings.pop("fast", None)
    if level is None:
        return settings
    if type(level) is not int or level not in LEVELS:
        raise UserError(f"fast {level!r} is not possible: give a level from 0, the exact picture, to {max(LEVELS)}")
    kept = {brought for name, brought in CHOSEN_BY.items() if name in settings}
    return {name: value for name, value in LEVELS[level].items() if name not in kept} | settings
