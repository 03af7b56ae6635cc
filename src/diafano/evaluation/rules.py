"""The rules: whether what the judge sees in a picture is what its scene says, task by task.

After GenEval (Ghosh et al. 2023, arXiv 2310.11513): of each kind of object the most certain ones are looked at, other
objects beside them do no harm, only counting asks for an exact number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diafano.errors import UserError
from diafano.evaluation.judge import Detection, Sighting
from diafano.training.data.emoji.arrangements import Relation
from diafano.training.data.emoji.scene_sampler import Task
from diafano.training.data.emoji.scenes import Scene, Thing

LEAST_DISTANCE = 0.1
"""How far apart two centres must be, as a share of the picture's edge, for one to be left of or above the other."""


@dataclass(frozen=True)
class Verdict:
    """Whether a picture passes, and why it does not."""

    passed: bool
    why: str
    """Empty if it passed."""


class _Failed(Exception):
    """What is wrong with a picture, in a few words."""


Rule = Callable[[Scene, Sighting, Mapping[str, str]], None]


def judged(task: Task, scene: Scene, sighting: Sighting, natural_tints: Mapping[str, str]) -> Verdict:
    """Does the picture that the judge saw as ``sighting`` show ``scene``, as far as ``task`` asks?

    ``natural_tints`` names the tint, if any, that an object's natural look passes for.
    """
    if task not in _RULES:
        raise UserError(f"There is no task {task!r}: choose one of {', '.join(_RULES)}.")
    try:
        _RULES[task](scene, sighting, natural_tints)
    except _Failed as failure:
        return Verdict(False, str(failure))
    return Verdict(True, "")


def _all_found(scene: Scene, sighting: Sighting, natural_tints: Mapping[str, str]) -> None:
    for thing in scene.things:
        _best(thing, sighting)


def _exact_number(scene: Scene, sighting: Sighting, natural_tints: Mapping[str, str]) -> None:
    for thing in scene.things:
        seen = len(sighting.of(thing.name))
        if seen != thing.count:
            raise _Failed(f"{seen} of {thing.name}, not {thing.count}")


def _all_tinted(scene: Scene, sighting: Sighting, natural_tints: Mapping[str, str]) -> None:
    for thing in scene.things:
        best = _best(thing, sighting)
        seen = natural_tints.get(thing.name) if best.tint is None else best.tint
        if seen != thing.tint:
            raise _Failed(f"{thing.name} is {'natural' if best.tint is None else best.tint}, not {thing.tint}")


def _placed(scene: Scene, sighting: Sighting, natural_tints: Mapping[str, str]) -> None:
    if scene.relation is None or len(scene.things) != 2:
        raise UserError("The task position needs a scene of two things with a relation between them.")
    first, second = (_best(thing, sighting) for thing in scene.things)
    distances: dict[Relation, float] = {
        "left of": second.x - first.x,
        "right of": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }
    if distances[scene.relation] < LEAST_DISTANCE:
        raise _Failed(f"{first.name} is not {scene.relation} {second.name}")


def _on_background(scene: Scene, sighting: Sighting, natural_tints: Mapping[str, str]) -> None:
    if sighting.background != scene.background:
        seen = "not of one colour" if sighting.background is None else sighting.background
        raise _Failed(f"background is {seen}, not {scene.background}")


_RULES: dict[Task, Rule] = {
    "single_object": _all_found,
    "two_objects": _all_found,
    "counting": _exact_number,
    "colour": _all_tinted,
    "position": _placed,
    "background": _on_background,
    "colour_binding": _all_tinted,
}


def _best(thing: Thing, sighting: Sighting) -> Detection:
    """The most certain object of that kind."""
    found = sighting.of(thing.name)
    if not found:
        raise _Failed(f"no {thing.name}")
    return max(found, key=lambda detection: detection.score)
