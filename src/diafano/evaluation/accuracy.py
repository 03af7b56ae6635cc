"""How far the judge can be trusted: its verdicts on true rendered scenes, which are known to be right or wrong."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from diafano.evaluation.detector import EDGE
from diafano.evaluation.judge import Judge
from diafano.evaluation.rules import judged
from diafano.training.data.emoji.arrangements import Relation
from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.scene_sampler import TASKS, SceneSampler, Task
from diafano.training.data.emoji.scenes import MOST_SPRITES, Scene, render
from diafano.training.data.emoji.sprites import Sprites

LEAST_ACCURACY = 0.97
"""A task is counted only if the judge accepts at least this share of right pictures and rejects as many wrong ones."""
SCENES = 200
"""True scenes a task."""
SEED = 20_310
"""Of those scenes, apart from every training seed."""

Choice = TypeVar("Choice")

_OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


@dataclass(frozen=True)
class Accuracy:
    """The judge's verdicts on true scenes of one task."""

    accepts: float
    """Share of pictures that pass for the scene that they show."""
    rejects: float
    """Share of as many other pictures that fail, though they differ only in the one point which the task is about."""
    scenes: int

    @property
    def accuracy(self) -> float:
        """Share of right verdicts, half of them on right pictures and half on wrong ones."""
        return (self.accepts + self.rejects) / 2

    @property
    def counted(self) -> bool:
        """Whether the judge is good enough at this task to judge with it."""
        return min(self.accepts, self.rejects) >= LEAST_ACCURACY


def accuracy_of(
    judge: Judge, sprites: Sprites, *, tasks: Sequence[Task] = TASKS, scenes: int = SCENES, seed: int = SEED
) -> dict[Task, Accuracy]:
    """The judge's accuracy in each task, on held-out scenes, by the rules that pictures are judged with."""
    sampler, look_alikes = SceneSampler(judge.objects, held_out=True), judge.card.natural_tints
    rows: dict[Task, Accuracy] = {}
    for task in tasks:
        rng = np.random.default_rng((seed, TASKS.index(task)))
        asked = [sampler.task(task, rng) for _ in range(scenes)]
        wrong = [near_miss(task, scene, judge.objects, look_alikes, rng) for scene in asked]
        seen = judge.look_at_pixels(true_pixels([*asked, *wrong], sprites, rng))
        passed = [judged(task, scene, one, look_alikes).passed for scene, one in zip(asked * 2, seen, strict=True)]
        rows[task] = Accuracy(sum(passed[:scenes]) / scenes, 1 - sum(passed[scenes:]) / scenes, scenes)
    return rows


def true_pixels(scenes: Sequence[Scene], sprites: Sprites, rng: np.random.Generator) -> Tensor:
    """One true picture of each scene, as pixels (b, 3, 64, 64) in [-1, 1]."""
    pixels = np.stack([render(scene, sprites, EDGE, rng).pixels for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def near_miss(
    task: Task, scene: Scene, objects: Sequence[str], natural_tints: Mapping[str, str], rng: np.random.Generator
) -> Scene:
    """A scene whose pictures must not pass for ``scene``, though it differs in one point: what the task is about.

    Another object, number or tint of one thing (its natural look too, unless that passes for the tint, as
    ``natural_tints`` tells), the opposite relation, another background.
    """
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    if task == "position":
        assert scene.relation is not None
        return replace(scene, relation=_OPPOSITE[scene.relation])
    if task == "background":
        tints = [one.tint for one in scene.things]
        return replace(scene, background=_another(COLOURS, [scene.background, *tints], rng))
    if task == "counting":
        changed = replace(thing, count=_another(range(1, MOST_SPRITES + 1), [thing.count], rng))
    elif task in ("colour", "colour_binding"):
        looks = [*TINTS] if natural_tints.get(thing.name) == thing.tint else [*TINTS, *[None] * len(TINTS)]
        changed = replace(thing, tint=_another(looks, [scene.background, thing.tint], rng))
    else:
        changed = replace(thing, name=_another(objects, [one.name for one in scene.things], rng))
    things = list(scene.things)
    things[index] = changed
    return replace(scene, things=tuple(things))


def _another(choices: Iterable[Choice], but: Sequence[Choice | None], rng: np.random.Generator) -> Choice:
    left = [choice for choice in choices if choice not in but]
    return left[int(rng.integers(len(left)))]
