"""Scenes: what a picture shows, and drawing it.

A scene says in plain terms what is there (things, their number, size and tint, how two stand to each other, the
background); ``render`` draws one picture of it. Which scenes are drawn for training, and which are kept back for
evaluation, is decided in ``scene_sampler``.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from diafano.errors import UserError
from diafano.training.data.emoji.arrangements import ARRANGEMENTS, PLACES, Arrangement, Place, Relation, Size, apart
from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.sprites import Sprites

Box = tuple[float, float, float, float]

MOST_SPRITES = 4
"""A scene shows at most this many sprites in all."""
LEAST_CELLS = 16
"""Places along an edge that sprites can stand at, at least."""


@dataclass(frozen=True)
class Thing:
    """Some objects of one kind, alike in size and tint."""

    name: str
    count: int = 1
    size: Size | None = None
    tint: str | None = None
    place: Place | None = None
    """Where in the picture a single one stands; anywhere if None."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_SPRITES:
            raise UserError(f"A scene cannot show {self.count} of {self.name!r}: give 1 to {MOST_SPRITES}.")
        if self.size is not None and self.size not in get_args(Size):
            raise UserError(f"There is no size {self.size!r}: choose small, big or none.")
        if self.tint is not None and self.tint not in TINTS:
            raise UserError(f"There is no tint named {self.tint!r}: choose one of {', '.join(TINTS)}.")
        if self.place is not None and self.place not in PLACES:
            raise UserError(f"There is no place {self.place!r}: choose one of {', '.join(PLACES)}.")
        if self.place is not None and self.count != 1:
            raise UserError(f"Only a single thing can stand {self.place}, not {self.count} of {self.name!r}.")


@dataclass(frozen=True)
class Scene:
    """One or two kinds of things on a plain background.

    ``relation`` tells where the first thing stands as seen from the second: "left of" reads "first left of second".
    """

    things: tuple[Thing, ...]
    background: str
    relation: Relation | None = None

    def __post_init__(self) -> None:
        names = [thing.name for thing in self.things]
        if not 1 <= len(names) <= 2 or len(set(names)) != len(names):
            raise UserError(f"A scene shows one or two different kinds of things, not {names}.")
        if self.sprite_count > MOST_SPRITES:
            raise UserError(f"A scene cannot show {self.sprite_count} sprites: give at most {MOST_SPRITES} in all.")
        if self.background not in COLOURS:
            raise UserError(f"There is no background {self.background!r}: choose one of {', '.join(COLOURS)}.")
        if any(thing.tint == self.background for thing in self.things):
            raise UserError(f"A {self.background} thing cannot be seen on {self.background}: change one of the two.")
        if self.relation is not None:
            if self.relation not in get_args(Relation):
                raise UserError(f"There is no relation {self.relation!r}: choose {', '.join(get_args(Relation))}.")
            if [thing.count for thing in self.things] != [1, 1]:
                raise UserError(f"The relation {self.relation!r} needs two single things, not {len(names)} kind(s).")
        if self.places:
            if len(self.places) != len(names) or self.relation is not None:
                raise UserError("A place must be given to all things of a scene or to none, and beside no relation.")
            if len(names) == 2 and not apart(*self.places):
                raise UserError(f"Two things cannot stand {' and '.join(self.places)}: give places that are apart.")

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its things stand, in their order, where that is said."""
        return tuple(thing.place for thing in self.things if thing.place is not None)

    @property
    def sprite_count(self) -> int:
        """How many sprites the picture shows in all."""
        return sum(thing.count for thing in self.things)


@dataclass(frozen=True)
class Placement:
    """Where one sprite stands."""

    name: str
    tint: str | None
    box: Box
    """(left, top, right, bottom) in pixels."""


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """A scene and one picture of it."""

    scene: Scene
    pixels: NDArray[np.uint8]
    """(size, size, 3), sRGB bytes."""
    placements: tuple[Placement, ...]
    """One per sprite, in the order of the scene's things."""


def render(
    scene: Scene,
    sprites: Sprites,
    size: int,
    rng: np.random.Generator,
    *,
    snap: int = 1,
    arrangement: Arrangement = "free",
) -> RenderedScene:
    """Draw ``scene`` as a square picture of ``size`` pixels a side; ``rng`` chooses places and exact sizes.

    Sprites lie wholly inside and their boxes do not overlap. Their places and sizes are multiples of ``snap`` pixels:
    with an autoencoder's factor, a sprite always falls into whole latent positions, and a model learns it sooner.
    """
    if snap < 1 or size % snap or size // snap < LEAST_CELLS:
        raise UserError(
            f"A scene cannot be drawn at {size} pixels by {snap}: give a multiple of it, at least {LEAST_CELLS} times."
        )
    cells = size // snap
    kinds = [thing for thing in scene.things for _ in range(thing.count)]
    squares = ARRANGEMENTS[arrangement]([thing.size for thing in kinds], scene.relation, scene.places, cells, rng)
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = COLOURS[scene.background]
    placements: list[Placement] = []
    for thing, square in zip(kinds, squares, strict=True):
        left, top, edge = (value * snap for value in square)
        _blend(pixels[top : top + edge, left : left + edge], sprites.sized(thing.name, edge, thing.tint))
        box = (float(left), float(top), float(left + edge), float(top + edge))
        placements.append(Placement(thing.name, thing.tint, box))
    return RenderedScene(scene, pixels, tuple(placements))


def _blend(under: NDArray[np.uint8], sprite: NDArray[np.uint8]) -> None:
    """Lay straight-alpha RGBA bytes over ``under`` (h, w, 3), in place, rounding to nearest."""
    alpha = sprite[..., 3:].astype(np.uint16)
    mixed = sprite[..., :3] * alpha + under * (255 - alpha)  # at most 255 * 255: fits 16 bits
    under[:] = (mixed + 127) // 255
