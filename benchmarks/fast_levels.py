"""What each level of `--fast` saves and costs, on the embedded model: time, score, Fréchet distance.

    .venv/bin/python benchmarks/fast_levels.py [--prompts 105] [--write]

Each held-out prompt is drawn at every level, one after the other, in one process. `--write` puts the table into
docs/fast.md.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import diafano
from diafano.engine.memory import keep_freed_memory
from diafano.evaluation.judge import Judge
from diafano.evaluation.scoring import evaluate, held_out_prompts
from diafano.request.fast import LEVELS
from diafano.training.data.emoji.sprites import Sprites

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS / "scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)


class Drawn:
    """Hands out pictures that were drawn before, to be judged."""

    def __init__(self, pictures: dict[tuple[str, int], Image.Image]) -> None:
        self.pictures = pictures

    def generate(self, prompt: str, *, seed: int | None = None, **_: object) -> Sequence[Image.Image]:
        assert seed is not None
        return [self.pictures[prompt, seed]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=105)
    parser.add_argument("--write", action="store_true", help="put the table into docs/fast.md")
    given = parser.parse_args()
    keep_freed_memory()
    model, judge, sprites = diafano.load(), Judge.shipped(), Sprites.shipped()
    asked = list(held_out_prompts(model.card.objects or judge.objects, given.prompts, 0))
    drawn: dict[int, dict[tuple[str, int], Image.Image]] = {level: {} for level in LEVELS}
    seconds: dict[int, list[float]] = {level: [] for level in LEVELS}
    model.generate(asked[0].text, steps=2)  # the first run of a process is slower
    for prompt in asked:
        for level in LEVELS:
            before = time.perf_counter()
            drawn[level][prompt.text, prompt.seed] = model.generate(prompt.text, seed=prompt.seed, fast=level)[0]
            seconds[level].append(time.perf_counter() - before)
    lines = ["| level | settings | time | score | Fréchet distance | distance to level 0 |", "| --- " * 6 + "|"]
    exact = statistics.median(seconds[0])
    for level, settings in LEVELS.items():
        result = evaluate(
            Drawn(drawn[level]), judge, sprites, prompts=given.prompts, objects=model.card.objects, judge_scenes=50
        )
        apart = [psnr(drawn[level][key], drawn[0][key]) for key in drawn[0]]
        said = ", ".join(f"{name} {value}" for name, value in settings.items()) or "the model's own"
        overall = "none" if result.overall is None else f"{result.overall:.3f}"
        distance = "" if level == 0 else f"{statistics.median(apart):.1f} dB"
        time_ = f"{statistics.median(seconds[level]) / exact:.2f}"
        lines.append(f"| {level} | {said} | {time_} | {overall} | {result.frechet:.2f} | {distance} |")
    lines += ["", f"{given.prompts} held-out prompts; level 0 took {exact:.2f} s a picture on the machine of the run."]
    print("\n".join(lines))
    if given.write:
        write_between_markers(DOCS / "fast.md", "fast", "\n".join(lines))


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Decibels, at most 99."""
    error = float(((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2).mean())
    return min(99.0, 10 * np.log10(255**2 / error)) if error > 0 else 99.0


if __name__ == "__main__":
    main()
