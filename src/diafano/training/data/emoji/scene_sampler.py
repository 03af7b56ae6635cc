"""Which scenes are drawn: the mix for training, and the held-out scenes that evaluation asks for.

A fixed tenth of all (object, tint), (object, background) and (object, object) combinations is held out: no training
scene contains one, so that drawing it takes combining what was learnt apart.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal, TypeVar, get_args

import numpy as np

from diafano.errors import UserError
from diafano.training.data.emoji.arrangements import PLACES, Place, Relation, Size, apart
from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.scenes import MOST_SPRITES, Scene, Thing

CombinationKind = Literal["object-tint", "object-background", "object-object"]
Task = Literal["single_object", "two_objects", "counting", "colour", "position", "background", "colour_binding"]
TASKS: tuple[Task, ...] = get_args(Task)
"""What evaluation asks for, in GenEval's manner (Ghosh et al. 2023, arXiv 2310.11513), with backgrounds added."""

TRAINING_MIX: dict[str, float] = {
    "single": 0.16,
    "sized": 0.10,
    "tinted": 0.17,
    "counted": 0.14,
    "two": 0.10,
    "related": 0.13,
    "two_tinted": 0.12,
    "placed": 0.05,
    "two_placed": 0.03,
}
"""Recipe -> its share of training scenes. A relation is an exclusive-or of object, word and place, which is learnt once
the parts are: stated places ("a fox on the left") teach them."""

PAIRS_OF_PLACES: tuple[tuple[Place, Place], ...] = tuple(
    (first, second) for first in PLACES for second in PLACES if apart(first, second)
)
_TRIES = 2000
Choice = TypeVar("Choice")


@lru_cache(maxsize=1 << 17)
def is_held_out(kind: CombinationKind, first: str, second: str) -> bool:
    """Whether a combination belongs to the held-out tenth: fixed for ever, the same on every machine.

    Two objects may come in either order; otherwise the object comes first and its colour second.
    """
    if kind == "object-object" and second < first:
        first, second = second, first
    digest = hashlib.sha256(f"{kind}:{first}:{second}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


def held_out_combinations(scene: Scene) -> list[tuple[CombinationKind, str, str]]:
    """All combinations in a scene that are held out from training."""
    pairs: list[tuple[CombinationKind, str, str]] = [
        ("object-background", thing.name, scene.background) for thing in scene.things
    ]
    pairs += [("object-tint", thing.name, thing.tint) for thing in scene.things if thing.tint is not None]
    pairs += [("object-object", a.name, b.name) for a, b in combinations(scene.things, 2)]
    return [pair for pair in pairs if is_held_out(*pair)]


class SceneSampler:
    """Draws scenes of the given objects.

    With ``held_out`` false: training scenes, in the shares of ``mix``, none of which contains a held-out combination.
    With ``held_out`` true: evaluation scenes, each containing at least one.
    """

    def __init__(
        self,
        objects: Sequence[str] | None = None,
        held_out: bool = False,
        *,
        mix: Mapping[str, float] | None = None,
    ) -> None:
        self.objects: tuple[str, ...] = tuple(OBJECTS if objects is None else objects)
        self.held_out = held_out
        if not self.objects or len(set(self.objects)) != len(self.objects):
            raise UserError(f"Scenes need different objects, but these {len(self.objects)} are not: name each once.")
        shares = dict(TRAINING_MIX if mix is None else mix)
        unknown = sorted(set(shares) - set(self._recipes()))
        if unknown:
            raise UserError(f"There is no recipe {unknown[0]!r} for scenes: choose from {', '.join(self._recipes())}.")
        values = np.array(list(shares.values()), np.float64)
        if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
            raise UserError(f"The mix of scenes {shares} must be shares of at least 0 that are not all 0.")
        self._recipe_names = list(shares)
        self._recipe_ends = np.cumsum(values / values.sum())
        self._pools: dict[CombinationKind, list[tuple[str, str]]] = {}

    def sample(self, rng: np.random.Generator) -> Scene:
        """One scene: for training, or, if held out, of a task picked evenly."""
        if self.held_out:
            return self.task(TASKS[int(rng.integers(len(TASKS)))], rng)
        index = int(np.searchsorted(self._recipe_ends, rng.random(), side="right"))
        recipe = self._recipes()[self._recipe_names[min(index, len(self._recipe_names) - 1)]]
        for _ in range(_TRIES):
            scene = recipe(rng)
            if not held_out_combinations(scene):
                return scene
        raise UserError(f"No training scene was found with these {len(self.objects)} objects: name more of them.")

    def task(self, task: Task, rng: np.random.Generator) -> Scene:
        """An evaluation scene for a task: the combination that the task is about is a held-out one."""
        if not self.held_out:
            raise UserError("Scenes for a task come from held-out combinations: make the sampler with held_out=True.")
        if task not in TASKS:
            raise UserError(f"There is no task {task!r}: choose one of {', '.join(TASKS)}.")
        if task in ("single_object", "background"):
            name, background = self._held_out_pair("object-background", rng)
            return Scene((Thing(name),), background)
        if task == "counting":
            name, background = self._held_out_pair("object-background", rng)
            return Scene((Thing(name, count=_between(2, MOST_SPRITES, rng)),), background)
        if task == "colour":
            name, tint = self._held_out_pair("object-tint", rng)
            return Scene((Thing(name, tint=tint),), _background(rng, (tint,)))
        if task == "colour_binding":
            name, tint = self._held_out_pair("object-tint", rng)
            other = self._object(rng, without=name)
            other_tint = _pick([colour for colour in TINTS if colour != tint], rng)
            things = [Thing(name, tint=tint), Thing(other, tint=other_tint)]
            if rng.random() < 0.5:
                things.reverse()
            return Scene(tuple(things), _background(rng, (tint, other_tint)))
        first, second = self._held_out_pair("object-object", rng)
        if rng.random() < 0.5:
            first, second = second, first
        relation = _pick(get_args(Relation), rng) if task == "position" else None
        return Scene((Thing(first), Thing(second)), _background(rng), relation)

    def _held_out_pair(self, kind: CombinationKind, rng: np.random.Generator) -> tuple[str, str]:
        """A held-out combination of our objects, all equally likely."""
        if kind not in self._pools:
            if kind == "object-object":
                pairs = list(combinations(self.objects, 2))
            else:
                colours = TINTS if kind == "object-tint" else COLOURS
                pairs = [(name, colour) for name in self.objects for colour in colours]
            self._pools[kind] = [pair for pair in pairs if is_held_out(kind, *pair)]
        pool = self._pools[kind]
        if not pool:
            raise UserError(f"No held-out {kind} combination has one of these objects: name more of them.")
        return pool[int(rng.random() * len(pool))]

    def _recipes(self) -> dict[str, Callable[[np.random.Generator], Scene]]:
        return {
            "single": lambda rng: Scene((Thing(self._object(rng)),), _background(rng)),
            "sized": lambda rng: Scene((Thing(self._object(rng), size=_pick(get_args(Size), rng)),), _background(rng)),
            "tinted": self._tinted,
            "counted": self._counted,
            "two": self._two,
            "related": self._related,
            "two_tinted": self._two_tinted,
            "placed": self._placed,
            "two_placed": self._two_placed,
        }

    def _tinted(self, rng: np.random.Generator) -> Scene:
        tint = _pick(tuple(TINTS), rng)
        size: Size | None = _pick(get_args(Size), rng) if rng.random() < 0.2 else None
        return Scene((Thing(self._object(rng), size=size, tint=tint),), _background(rng, (tint,)))

    def _counted(self, rng: np.random.Generator) -> Scene:
        tint = _pick(tuple(TINTS), rng) if rng.random() < 0.25 else None
        thing = Thing(self._object(rng), count=_between(2, MOST_SPRITES, rng), tint=tint)
        return Scene((thing,), _background(rng, (tint,)))

    def _two(self, rng: np.random.Generator) -> Scene:
        first = self._object(rng)
        second = self._object(rng, without=first)
        counts = (1, 1) if rng.random() < 0.6 else _pick(((1, 2), (2, 1), (2, 2), (1, 3), (3, 1)), rng)
        return Scene((Thing(first, count=counts[0]), Thing(second, count=counts[1])), _background(rng))

    def _related(self, rng: np.random.Generator) -> Scene:
        return self._pair(rng, tinted=rng.random() < 0.2, relation=_pick(get_args(Relation), rng))

    def _two_tinted(self, rng: np.random.Generator) -> Scene:
        return self._pair(rng, tinted=True, relation=None)

    def _placed(self, rng: np.random.Generator) -> Scene:
        tint = _pick(tuple(TINTS), rng) if rng.random() < 0.15 else None
        return Scene((Thing(self._object(rng), tint=tint, place=_pick(tuple(PLACES), rng)),), _background(rng, (tint,)))

    def _two_placed(self, rng: np.random.Generator) -> Scene:
        first = self._object(rng)
        places = _pick(PAIRS_OF_PLACES, rng)
        things = zip((first, self._object(rng, without=first)), places, strict=True)
        return Scene(tuple(Thing(name, place=place) for name, place in things), _background(rng))

    def _pair(self, rng: np.random.Generator, tinted: bool, relation: Relation | None) -> Scene:
        first = self._object(rng)
        second = self._object(rng, without=first)
        if not tinted:
            return Scene((Thing(first), Thing(second)), _background(rng), relation)
        tint = _pick(tuple(TINTS), rng)
        other = _pick([colour for colour in TINTS if colour != tint], rng)
        return Scene((Thing(first, tint=tint), Thing(second, tint=other)), _background(rng, (tint, other)), relation)

    def _object(self, rng: np.random.Generator, without: str | None = None) -> str:
        if without is not None and len(self.objects) < 2:
            raise UserError("Scenes of two kinds need at least two objects: name more of them.")
        while (name := _pick(self.objects, rng)) == without:
            pass
        return name


def _pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.random() * len(choices))]


def _between(least: int, most: int, rng: np.random.Generator) -> int:
    return least + int(rng.random() * (most - least + 1))


def _background(rng: np.random.Generator, tints: Sequence[str | None] = ()) -> str:
    """A background colour that no thing in the scene is tinted with."""
    return _pick([colour for colour in COLOURS if colour not in tints], rng)
