"""Draws docs/samplers.svg and fills docs/samplers.md: how far each sampler is from where a run with tiny steps ends.

    .venv/bin/python docs/scripts/samplers.py [--small]

The embedded model draws a few prompts at its own guidance from one start noise each. Without fresh noise that start
decides the end: all samplers solve one differential equation (Karras et al. 2022, equation 3). Its solution is taken
from 1000 steps over all trained timesteps, by DPM++ 2M; DDIM's 1000 steps, of first order, are there to compare.
(Heun's method would need another grid: the embedded model's largest sigma is 20291, far above the next one, and a
polynomial in sigma fails over such a step.) The error of a run is the root of the mean squared difference of its final
latents, whose variance is about 1, from the solution's. Each sampler takes its automatic schedule; work is counted in
evaluations of the network.

Samplers that draw fresh noise go elsewhere by design; those that have an eta are run with eta 0.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diafano
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.guidance import guided
from diafano.sampling.samplers.table import SAMPLERS, Sampler, find_sampler
from diafano.sampling.sigmas import AUTOMATIC, SCHEDULES
from diafano.stable_diffusion import StableDiffusion
from generated import write_between_markers
from line_chart import Level, Line, line_chart

DOCS = Path(__file__).parents[1]
PROMPTS = (
    "a penguin on a red background",
    "two apples on a blue background",
    "a blue fox on a white background",
)
SEED = 0
EVALUATIONS = (8, 12, 17, 25, 35, 50, 70, 100)
TABLE = (8, 12, 25, 50, 100)
FEW, MANY = 25, 50
"""The promise: the default sampler in FEW steps is closer than DDIM in MANY."""
CANDIDATES = ("dpmpp_2m", "uni_pc", "lms")
"""Samplers of higher order at one evaluation a step: one of them should be the default."""
CEILING = 2.0
"""Where the chart ends: pictures with larger errors have nothing in common with the solution's."""
SAME = 0.01
"""Errors that differ by less than this share are one line of the chart: some samplers are one formula at eta 0."""


@dataclass(frozen=True)
class Run:
    """One run's work and error."""

    sampler: str
    schedule: str
    steps: int
    evaluations: int
    error: float


class Solver:
    """The model's prompts and their start noise, and whatever sampler is to bring that to an end."""

    def __init__(self, model: StableDiffusion, prompts: Sequence[str]) -> None:
        self.model = model
        text = model.text_encoder(model.tokenizer(["", *prompts]))
        denoiser = Denoiser(model.unet, model.schedule, model.dtype)
        self.denoise = guided(denoiser, text[1:], text[:1], model.card.guidance)
        width, height = (edge // model.autoencoder.factor for edge in model.card.size)
        shape = (len(prompts), model.autoencoder.config.latent_channels, height, width)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))

    def latents(self, sampler: Sampler, schedule: str, steps: int) -> tuple[Tensor, int]:
        """The final latents (prompts, 4, h, w), and how often the network was evaluated."""
        request = self.model.request("", sampler=sampler.name, schedule=schedule, steps=steps, seed=0)
        sigmas = self.model.plan(request).sigmas
        calls = 0

        def counted(x: Tensor, sigma: float) -> Tensor:
            nonlocal calls
            calls += 1
            return self.denoise(x, sigma)

        options = {"eta": 0.0} if "eta" in sampler.options else {}
        end = sampler.function(counted, self.model.schedule.start(self.noise, sigmas[0]), sigmas, **options)
        return self.model.schedule.finish(end, sigmas[-1]), calls

    def run(self, sampler: Sampler, schedule: str, steps: int, solution: Tensor) -> Run:
        latents, evaluations = self.latents(sampler, schedule, steps)
        named = sampler.schedule if schedule == AUTOMATIC else schedule
        return Run(sampler.name, named, steps, evaluations, distance(latents, solution))


def distance(one: Tensor, other: Tensor) -> float:
    """Root of the mean squared difference."""
    return math.sqrt(float((one - other).square().mean()))


def deterministic() -> list[Sampler]:
    """Samplers whose runs the start noise decides, with eta 0 where they have it."""
    return [sampler for sampler in SAMPLERS.values() if not sampler.stochastic or "eta" in sampler.options]


def steps_for(sampler: Sampler, evaluations: int) -> int:
    """The most steps that take no more evaluations; the last step, to sigma 0, is always one."""
    return 1 + (evaluations - 1) // sampler.evaluations_per_step


def label(name: str) -> str:
    sampler = find_sampler(name)
    return sampler.label + (" (eta 0)" if sampler.stochastic else "")


def chart_lines(runs: Sequence[Run]) -> list[Line]:
    """A line a sampler, the least error at its end first; samplers whose errors are the same share one."""
    merged: list[tuple[list[str], list[Run]]] = []
    for name in dict.fromkeys(run.sampler for run in runs):
        own = [run for run in runs if run.sampler == name]
        for names, others in merged:
            pairs = zip(own, others, strict=False)
            if len(own) == len(others) and all(
                one.evaluations == other.evaluations and abs(one.error - other.error) <= SAME * other.error
                for one, other in pairs
            ):
                names.append(label(name))
                break
        else:
            merged.append(([label(name)], own))
    lines = [Line(", ".join(names), tuple((run.evaluations, run.error) for run in own)) for names, own in merged]
    return sorted(lines, key=lambda line: line.points[-1][1])


def error_table(runs: Sequence[Run], columns: Sequence[int]) -> str:
    """Markdown: a row a sampler, its error at about `columns` evaluations."""
    lines = [
        "| sampler | schedule | " + " | ".join(f"{column} evaluations" for column in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    for name in dict.fromkeys(run.sampler for run in runs):
        own = [run for run in runs if run.sampler == name]
        errors = {run.steps: f"{run.error:.4f}" for run in own}
        cells = [errors.get(steps_for(find_sampler(name), column), "") for column in columns]
        lines.append(f"| {label(name)} | {SCHEDULES[own[0].schedule].label} | " + " | ".join(cells) + " |")
    left_out = [sampler.label for sampler in SAMPLERS.values() if sampler not in deterministic()]
    return "\n".join([*lines, "", f"Left out, because they cannot do without fresh noise: {', '.join(left_out)}."])


def verdict(default: Run, baseline: Run, best: Sequence[Run]) -> str:
    """Whether the promise holds for the model's default, and which samplers with which schedule keep it best."""
    holds = default.error < baseline.error
    lines = [
        f"**The default sampler in {FEW} steps is closer to the solution than DDIM in {MANY}: {holds}.** "
        f"The default, {told(default)}, has an error of {default.error:.4f} in {default.steps} steps; "
        f"{told(baseline)} one of {baseline.error:.4f} in {baseline.steps}.",
        "",
        f"| in {FEW} steps | schedule | evaluations | error | share of DDIM's in {MANY} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for run in best:
        cells = (label(run.sampler), SCHEDULES[run.schedule].label, run.evaluations, f"{run.error:.4f}")
        lines.append("| " + " | ".join(map(str, cells)) + f" | {run.error / baseline.error:.2f} |")
    return "\n".join(lines)


def told(run: Run) -> str:
    return f"{label(run.sampler)} on the schedule {SCHEDULES[run.schedule].label}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the embedded one")
    parser.add_argument("--small", action="store_true", help="little of everything, to try the script; writes nothing")
    parser.add_argument("--json", type=Path, help="write every run")
    given = parser.parse_args()
    model = diafano.load(given.model, device="cpu", dtype="float32")
    solver = Solver(model, PROMPTS[:1] if given.small else PROMPTS)
    evaluations = TABLE[:2] if given.small else EVALUATIONS
    trained = 200 if given.small else len(model.schedule)

    solution, _ = solver.latents(find_sampler("dpmpp_2m"), "uniform", trained)
    by_ddim, _ = solver.latents(find_sampler("ddim"), "uniform", trained)
    print(f"DPM++ 2M and DDIM in {trained} steps are {distance(by_ddim, solution):.5f} apart", flush=True)
    runs = []
    for sampler in deterministic():
        for work in evaluations:
            runs.append(solver.run(sampler, AUTOMATIC, steps_for(sampler, work), solution))
            print(runs[-1], flush=True)
    card = model.card
    default = solver.run(find_sampler(card.sampler), card.schedule, FEW, solution)
    baseline = solver.run(find_sampler("ddim"), "uniform", MANY, solution)
    schedules = ("uniform", "karras") if given.small else SCHEDULES
    grid = [solver.run(find_sampler(name), schedule, FEW, solution) for name in CANDIDATES for schedule in schedules]
    best = sorted(grid, key=lambda run: run.error)[:8]
    found = verdict(default, baseline, best)
    floor = (
        f"The solution is that of {trained} steps of DPM++ 2M; {trained} steps of DDIM end"
        f" {distance(by_ddim, solution):.4f} from it."
    )
    table = error_table(runs, TABLE)
    print(found, table, floor, sep="\n\n")
    if given.json is not None:
        everything: dict[str, Any] = {"runs": [vars(run) for run in runs], "at 25 steps": [vars(run) for run in grid]}
        given.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    if not given.small:
        chart = line_chart(
            chart_lines(runs),
            title=f"Distance from the solution after so many evaluations ({card.name})",
            across="evaluations of the network",
            up="error of the final latent (root mean square)",
            ticks=(8, 10, 15, 20, 25, 30, 40, 50, 70, 100),
            levels=[Level(f"DDIM in {MANY} steps", baseline.error)],
            ceiling=CEILING,
        )
        (DOCS / "samplers.svg").write_text(chart, encoding="utf-8")
        write_between_markers(DOCS / "samplers.md", "samplers", "\n\n".join([found, table, floor]))


if __name__ == "__main__":
    main()
