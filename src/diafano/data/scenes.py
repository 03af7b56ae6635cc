"""Scenes: what a picture shows, and drawing it.

A scene says in plain terms what is there (things, their number, size and tint, how two stand to each other, the
background); ``render`` draws one picture of it. Which scenes are drawn for training, and which are kept back for
evaluation, is decided in ``scene_sampler``.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diafano.data.colours import COLOURS, TINTS
from diafano.data.sprites import Sprites
from diafano.errors import UserError

Size = Literal["small", "big"]
Relation = Literal["left of", "right of", "above", "below"]
Box = tuple[float, float, float, float]

MOST_SPRITES = 4
"""A scene shows at most this many sprites in all."""

_ALONE: dict[Size | None, tuple[float, ...]] = {
    "small": (0.26, 0.28, 0.30),
    None: (0.42, 0.45, 0.48),
    "big": (0.64, 0.68, 0.72),
}
"""Sprite edge as a share of the picture's edge, when one sprite stands alone."""
_AMONG: dict[int, tuple[float, ...]] = {2: (0.34, 0.37, 0.40), 3: (0.32, 0.34, 0.36), 4: (0.30, 0.32, 0.34)}
"""The same, by how many sprites there are."""
_SIZE_AMONG: dict[Size | None, float] = {"small": 0.7, None: 1.0, "big": 1.15}
"""What a size multiplies that share with."""
_MARGIN = 0.02
"""Least distance between sprites, and from the picture's border, as a share of the picture's edge."""
_TRIES = 40


@dataclass(frozen=True)
class Thing:
    """Some objects of one kind, alike in size and tint."""

    name: str
    count: int = 1
    size: Size | None = None
    tint: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_SPRITES:
            raise UserError(f"A scene cannot show {self.count} of {self.name!r}: give 1 to {MOST_SPRITES}.")
        if self.size is not None and self.size not in get_args(Size):
            raise UserError(f"There is no size {self.size!r}: choose small, big or none.")
        if self.tint is not None and self.tint not in TINTS:
            raise UserError(f"There is no tint named {self.tint!r}: choose one of {', '.join(TINTS)}.")


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


def render(scene: Scene, sprites: Sprites, size: int, rng: np.random.Generator, snap: int = 1) -> RenderedScene:
    """Draw ``scene`` as a square picture of ``size`` pixels a side; ``rng`` chooses places and exact sizes.

    Sprites lie wholly inside and their boxes do not overlap. Their places and sizes are multiples of ``snap`` pixels:
    with an autoencoder's factor, a sprite always falls into whole latent positions, and a model learns it sooner.
    """
    if snap < 1 or size % snap or size // snap < 16:
        raise UserError(
            f"A scene cannot be drawn at {size} pixels by {snap}: give a multiple of it, at least 16 times."
        )
    cells = size // snap
    edges = _edges(scene, cells, rng)
    corners = [(left * snap, top * snap) for left, top in _corners(edges, cells, scene.relation, rng)]
    edges = [edge * snap for edge in edges]
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = COLOURS[scene.background]
    placements: list[Placement] = []
    kinds = [thing for thing in scene.things for _ in range(thing.count)]
    for thing, edge, (left, top) in zip(kinds, edges, corners, strict=True):
        _blend(pixels[top : top + edge, left : left + edge], sprites.sized(thing.name, edge, thing.tint))
        box = (float(left), float(top), float(left + edge), float(top + edge))
        placements.append(Placement(thing.name, thing.tint, box))
    return RenderedScene(scene, pixels, tuple(placements))


def _blend(under: NDArray[np.uint8], sprite: NDArray[np.uint8]) -> None:
    """Lay straight-alpha RGBA bytes over ``under`` (h, w, 3), in place, rounding to nearest."""
    alpha = sprite[..., 3:].astype(np.uint16)
    mixed = sprite[..., :3] * alpha + under * (255 - alpha)  # at most 255 * 255: fits 16 bits
    under[:] = (mixed + 127) // 255


def _edges(scene: Scene, size: int, rng: np.random.Generator) -> list[int]:
    """Sprite edges in pixels, from few values per picture size, so that sized sprites stay cached."""
    count = scene.sprite_count
    edges: list[int] = []
    for thing in scene.things:
        if count == 1:
            shares = _ALONE[thing.size]
            share = shares[int(rng.random() * len(shares))]
        else:
            shares = _AMONG[count]
            share = shares[int(rng.random() * len(shares))] * _SIZE_AMONG[thing.size]
        edges += [round(share * size)] * thing.count
    return edges


def _corners(edges: list[int], size: int, relation: Relation | None, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Left and top of each sprite, in whole pixels."""
    margin = round(_MARGIN * size)
    if relation is not None:
        return _related_corners(edges, size, margin, relation, rng)
    if len(edges) == 1:  # anywhere, but more often near the middle: the sum of two dice
        spare = size - 2 * margin - edges[0] + 1
        left, top = (margin + int((rng.random() + rng.random()) / 2 * spare) for _ in range(2))
        return [(left, top)]
    for _ in range(_TRIES):
        corners: list[tuple[int, int]] = []
        for edge in edges:
            left, top = (margin + int(rng.random() * (size - 2 * margin - edge + 1)) for _ in range(2))
            if any(
                left < x + other + margin
                and x < left + edge + margin
                and top < y + other + margin
                and y < top + edge + margin
                for (x, y), other in zip(corners, edges, strict=False)
            ):
                break
            corners.append((left, top))
        else:
            return corners
    return _grid_corners(edges, size, rng)


def _grid_corners(edges: list[int], size: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Each sprite somewhere inside a cell of its own, of 2 x 2: what is left when chance finds no room."""
    half = size // 2
    corners: list[tuple[int, int]] = []
    for cell, edge in zip(rng.permutation(4).tolist(), edges, strict=False):
        across, down = (int(rng.random() * (half - edge + 1)) for _ in range(2))
        corners.append((cell % 2 * half + across, cell // 2 * half + down))
    return corners


def _related_corners(
    edges: list[int], size: int, margin: int, relation: Relation, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Two sprites apart along the relation's axis, and nearly level across it (within 45% of their distance)."""
    before = relation in ("left of", "above")
    first, second = edges if before else edges[::-1]
    spare = max(size - 3 * margin - first - second, 0)
    early, late = sorted(int(rng.random() * (spare + 1)) for _ in range(2))
    start = min(margin, size - first - second) + early  # along the axis: the nearer one, then the farther one
    end = min(start - early + late + first + margin, size - second)
    reach = 0.45 * (end + second / 2 - start - first / 2)
    middle = margin + first / 2 + rng.random() * (size - 2 * margin - first)  # across the axis: the nearer one's centre
    low = max(margin + second / 2, middle - reach)
    high = min(size - margin - second / 2, middle + reach)
    other = low + rng.random() * (high - low)
    pairs = [(start, math.floor(middle - first / 2)), (end, math.floor(other - second / 2))]
    if relation in ("above", "below"):
        pairs = [(side, place) for place, side in pairs]
    return pairs if before else pairs[::-1]
