"""The score: a model draws held-out prompts, the judge looks, the rules decide, tasks are averaged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from diafano.errors import UserError
from diafano.evaluation.accuracy import SCENES, Accuracy, accuracy_of
from diafano.evaluation.frechet import distance_from_true
from diafano.evaluation.judge import Judge, Sighting, pixels_of
from diafano.evaluation.rules import judged
from diafano.stable_diffusion import StableDiffusion
from diafano.training.data.emoji.grammar import EnglishGrammar, Grammar
from diafano.training.data.emoji.scene_sampler import TASKS, SceneSampler, Task
from diafano.training.data.emoji.scenes import Scene
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.exchanged import Exchange, exchanges

PROMPTS = 200
"""Prompts in an evaluation, spread evenly over the tasks."""
TRIES = 50
"""How often another prompt is sought where one has been drawn before; small sets of objects do not have enough."""


class Artist(Protocol):
    """What can be evaluated: a StableDiffusion, or anything that draws like one."""

    def generate(
        self,
        prompt: str,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        seed: int | None = None,
    ) -> Sequence[Image.Image]: ...


@dataclass(frozen=True)
class Prompt:
    """What a model is asked to draw."""

    task: Task
    scene: Scene
    text: str
    seed: int
    """Of the picture's noise."""


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt, what the judge saw in its picture, and the verdict."""

    prompt: Prompt
    passed: bool
    why: str
    """Why it did not pass; empty if it did."""
    seen: Sighting
    picture: Image.Image

    def as_json(self) -> dict[str, Any]:
        """Everything but the picture, in JSON's types."""
        return {
            "task": self.prompt.task,
            "prompt": self.prompt.text,
            "seed": self.prompt.seed,
            "passed": self.passed,
            "found": {
                "objects": [_rounded(asdict(detection)) for detection in self.seen.detections],
                "background": self.seen.background,
            },
            "why": self.why,
        }


@dataclass(frozen=True)
class Result:
    """An evaluation: the score, and everything that it is made of."""

    prompts: tuple[JudgedPrompt, ...]
    judge: Mapping[Task, Accuracy]
    frechet: float | None = None
    """Distance of the pictures from true ones in the judge's features, see `frechet`; None for a single picture."""
    exchanges: tuple[Exchange, ...] = ()
    """What exchanging two names in a caption does to the prediction, see `exchanged`; empty where nobody can tell."""

    def of(self, task: Task) -> list[JudgedPrompt]:
        """The prompts of one task."""
        return [one for one in self.prompts if one.prompt.task == task]

    @property
    def tasks(self) -> dict[Task, float]:
        """Task -> share of its pictures that pass; tasks without a prompt are left out."""
        return {task: sum(one.passed for one in self.of(task)) / len(self.of(task)) for task in TASKS if self.of(task)}

    @property
    def counted(self) -> list[Task]:
        """The tasks that the judge is good enough at."""
        return [task for task in self.tasks if self.judge[task].counted]

    @property
    def overall(self) -> float | None:
        """Mean of the counted tasks' scores; None where no task is counted."""
        if not self.counted:
            return None
        return sum(self.tasks[task] for task in self.counted) / len(self.counted)

    def as_json(self) -> dict[str, Any]:
        """``overall``, ``frechet``, ``exchanged_names``, ``tasks``, ``judge`` and ``prompts``, in JSON's types."""
        return {
            "overall": self.overall,
            "frechet": self.frechet,
            "exchanged_names": [_rounded(asdict(one)) for one in self.exchanges],
            "tasks": {task: {"score": score, "count": len(self.of(task))} for task, score in self.tasks.items()},
            "judge": {
                task: {"accuracy": row.accuracy, **asdict(row), "counted": row.counted}
                for task, row in self.judge.items()
            },
            "prompts": [one.as_json() for one in self.prompts],
        }

    def table(self) -> str:
        """What a person reads: one line a task."""
        lines = [f"{'task':<16}{'score':>7}{'passed':>10}   judge's accuracy on true scenes"]
        for task, score in self.tasks.items():
            rows, trust = self.of(task), self.judge[task]
            passed = f"{sum(one.passed for one in rows)}/{len(rows)}"
            note = "" if trust.counted else ": too low, not counted"
            accuracy = f"{trust.accuracy:.3f} (accepts {trust.accepts:.3f}, rejects {trust.rejects:.3f}){note}"
            lines.append(f"{task.replace('_', ' '):<16}{score:>7.3f}{passed:>10}   {accuracy}")
        overall = "none" if self.overall is None else f"{self.overall:.3f}"
        lines.append(f"{'overall':<16}{overall:>7}{'':>10}   mean of {len(self.counted)} counted tasks")
        if self.frechet is not None:
            lines.append(
                f"{'Fréchet distance':<16}{self.frechet:>7.2f}{'':>10}   from true pictures, by the judge's features"
            )
        if self.exchanges:
            changes = ", ".join(f"{one.change:.2f} at {one.timestep}" for one in self.exchanges)
            ratio = self.exchanges[0].error_ratio
            lines.append(f"names exchanged: the prediction changes by {changes} (error x {ratio:.2f} at the first)")
        return "\n".join(lines)


def evaluate(
    model: Artist,
    judge: Judge,
    sprites: Sprites,
    *,
    prompts: int = PROMPTS,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    objects: Sequence[str] | None = None,
    grammar: Grammar | None = None,
    judge_scenes: int = SCENES,
    on_picture: Callable[[], object] | None = None,
) -> Result:
    """Let `model` draw held-out prompts, and judge the pictures; `seed` decides prompts and noise.

    `objects` are those that the model was trained to draw (None: all that the judge knows); the judge must know them.
    `settings` are handed to `model.generate` (steps, guidance, sampler); `grammar` words the prompts (None: English's).
    The judge's own accuracy is measured anew on
    `judge_scenes` true scenes a task. `on_picture` is called after each picture.
    """
    given = {} if settings is None else dict(settings)
    known = judge.objects if objects is None else tuple(objects)
    if unknown := [name for name in known if name not in judge.objects]:
        raise UserError(f"the judge does not know the object {unknown[0]!r}: train a judge for the model's objects")
    words = EnglishGrammar() if grammar is None else grammar
    asked = list(held_out_prompts(known, prompts, seed, words))
    pictures: list[Image.Image] = []
    for prompt in asked:
        pictures.append(model.generate(prompt.text, seed=prompt.seed, **given)[0])
        if on_picture is not None:
            on_picture()
    rows: list[JudgedPrompt] = []
    pixels = pixels_of(pictures)
    for prompt, picture, seen in zip(asked, pictures, judge.look_at_pixels(pixels), strict=True):
        verdict = judged(prompt.task, prompt.scene, seen, judge.card.natural_tints)
        rows.append(JudgedPrompt(prompt, verdict.passed, verdict.why, seen, picture))
    frechet = distance_from_true(judge, pixels, [prompt.scene for prompt in asked], sprites)
    changes = exchanges(model, sprites, words, known, seed=seed) if isinstance(model, StableDiffusion) else []
    return Result(tuple(rows), accuracy_of(judge, sprites, scenes=judge_scenes), frechet, tuple(changes))


def held_out_prompts(objects: Sequence[str], count: int, seed: int, grammar: Grammar | None = None) -> Iterator[Prompt]:
    """`count` prompts from (seed) alone, the tasks taking turns; none twice within a task as long as there are others.

    Each is about a combination of these objects, with a colour or with each other, that training never shows.
    """
    if count < 1:
        raise UserError(f"{count} prompts cannot be evaluated: give 1 or more, 200 for a figure to rely on")
    if seed < 0:
        raise UserError(f"the seed {seed} is not possible: give a whole number from 0 on")
    words = EnglishGrammar() if grammar is None else grammar
    sampler = SceneSampler(objects, held_out=True)
    drawn: set[tuple[Task, str]] = set()
    for index in range(count):
        task = TASKS[index % len(TASKS)]
        rng = np.random.default_rng((seed, index))
        for _ in range(TRIES):
            scene = sampler.task(task, rng)
            text = words.canonical(scene)
            if (task, text) not in drawn:
                break
        drawn.add((task, text))
        yield Prompt(task, scene, text, seed + index)


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
