"""Where the things of a scene stand and how large they are: scattered freely, or evenly spread."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Size = Literal["small", "big"]
Relation = Literal["left of", "right of", "above", "below"]
Place = Literal["left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right"]
Arrangement = Literal["free", "even"]
"""Free: anywhere, in many sizes. Even: one alone in the middle, two side by side or above each other, more in two
rows, each near its place and in one size; far fewer different pictures, so that a model learns them sooner."""
Square = tuple[int, int, int]
"""(left, top, edge) in cells."""

PLACES: dict[Place, tuple[float, float]] = {
    "left": (0.25, 0.5),
    "right": (0.75, 0.5),
    "top": (0.5, 0.25),
    "bottom": (0.5, 0.75),
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
}
"""Place -> its centre, as shares of the picture's width and height."""

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


_EVEN_ALONE: dict[Size | None, float] = {"small": 0.31, None: 0.56, "big": 0.69}
_EVEN_AMONG: dict[Size | None, float] = {"small": 0.25, None: 0.375, "big": 0.44}
_STRAY = 1 / 16
"""How far a sprite may stand from its even place, either way, as a share of the picture's edge."""


def apart(first: Place, second: Place) -> bool:
    """Whether two things, one at each place, stand clear of each other: in other halves of the picture."""
    (x, y), (other_x, other_y) = PLACES[first], PLACES[second]
    return max(abs(x - other_x), abs(y - other_y)) >= 0.5


def free(
    sizes: Sequence[Size | None],
    relation: Relation | None,
    places: Sequence[Place],
    cells: int,
    rng: np.random.Generator,
) -> list[Square]:
    """A square for a sprite of each of these sizes, in a picture of `cells` a side; they do not overlap.

    `places` says where each stands, or is empty.
    """
    edges = _edges(sizes, cells, bool(places), rng)
    corners = (
        [_corner_at(place, edge, cells, rng) for place, edge in zip(places, edges, strict=True)]
        if places
        else _corners(edges, cells, relation, rng)
    )
    return [(left, top, edge) for (left, top), edge in zip(corners, edges, strict=True)]


def even(
    sizes: Sequence[Size | None],
    relation: Relation | None,
    places: Sequence[Place],
    cells: int,
    rng: np.random.Generator,
) -> list[Square]:
    """The same, evenly spread."""
    alone = len(sizes) == 1 and not places
    shares = _EVEN_ALONE if alone else _EVEN_AMONG
    room = cells if alone else cells // 2  # what each has to itself
    centres = [PLACES[place] for place in places] if places else _even_centres(len(sizes), relation, rng)
    squares = []
    for size, centre in zip(sizes, centres, strict=True):
        edge = min(round(shares[size] * cells), room)
        stray = min(round(_STRAY * cells), (room - edge) // 2)
        left, top = (math.floor(share * cells - edge / 2) + int(rng.integers(-stray, stray + 1)) for share in centre)
        squares.append((left, top, edge))
    return squares


def _even_centres(count: int, relation: Relation | None, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres as shares of the picture's edge, in the order of the things."""
    if count == 1:
        return [(0.5, 0.5)]
    if count == 2:
        upright = rng.random() < 0.5 if relation is None else relation in ("above", "below")
        first_is_later = rng.random() < 0.5 if relation is None else relation in ("right of", "below")
        centres = [(0.5, 0.25), (0.5, 0.75)] if upright else [(0.25, 0.5), (0.75, 0.5)]
        return centres[::-1] if first_is_later else centres
    rows = ((2, 1), (1, 2))[int(rng.integers(2))] if count == 3 else (2, 2)
    places = [((i + 0.5 if n == 2 else 1.0) / 2, y) for n, y in zip(rows, (0.25, 0.75), strict=True) for i in range(n)]
    return [places[i] for i in rng.permutation(count)]


ARRANGEMENTS: dict[Arrangement, Callable[..., list[Square]]] = {"free": free, "even": even}


def _edges(things: Sequence[Size | None], cells: int, placed: bool, rng: np.random.Generator) -> list[int]:
    """Edges in cells, from few values per picture size, so that sized sprites stay cached."""
    alone = len(things) == 1 and not placed
    edges: list[int] = []
    for size in things:
        shares = _ALONE[size] if alone else _AMONG[max(2, len(things))]
        share = shares[int(rng.random() * len(shares))]
        edges.append(round(share * cells * (1.0 if alone else _SIZE_AMONG[size])))
    return edges


def _corner_at(place: Place, edge: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Left and top of a sprite that lies wholly in the half, or quarter, of the picture that the place names."""
    corner = []
    for centre in PLACES[place]:
        first = size - size // 2 if centre > 0.5 else 0
        last = size // 2 if centre < 0.5 else size
        margin = min(round(_MARGIN * size), (last - first - edge) // 2)
        corner.append(first + margin + int(rng.random() * (last - first - 2 * margin - edge + 1)))
    return corner[0], corner[1]


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
