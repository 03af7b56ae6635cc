"""diffusers' habits: the timesteps that each of its schedulers picks."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSchedule, Spacing
from diafano.request.programs.program import Program
from diafano.sampling.samplers.multistep import pndm
from diafano.sampling.samplers.table import Sampler
from diafano.sampling.sigmas import find_schedule, trained_on, uniform_timesteps

DIFFUSERS_MULTISTEP = ("dpmpp_2m", "dpmpp_2m_sde", "uni_pc")
"""Samplers of which diffusers makes the uniform grid one step too long and leaves out the last one."""
DIFFUSERS_EXPLODING = ("euler", "euler_ancestral", "heun", "lms", "dpm_2", "dpm_2_ancestral", "dpmpp_sde")
"""Samplers that hold ``clean + sigma * noise`` in diffusers too, and there spread sigmas between the run's own ends."""
DIFFUSERS_LEADING = ("ddim", "ddpm", "pndm", "lcm")
"""Samplers whose schedulers have the spacing "leading" there unless told otherwise; all others have "linspace"."""
SPREAD: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "karras": (lambda sigma: sigma ** (1.0 / 7.0), lambda root: root**7.0),
    "exponential": (math.log, math.exp),
    "beta": (float, float),
}
"""Schedules that diffusers has as ``use_..._sigmas``: the function of sigma in which they are spread, its inverse."""


def diffusers_grid(sampler: Sampler, name: str, process: Process, steps: int) -> list[float]:
    """Uniform timesteps as each scheduler picks them; Karras, exponential and beta sigmas between those it picks.

    Schedules that diffusers does not have are ours.
    """
    schedule = trained_on(process)
    uniform = _diffusers_uniform(sampler, schedule, steps)
    if name == "uniform":
        return uniform
    grid = find_schedule(name).function(schedule, steps)
    if name not in SPREAD or steps == 1:
        return grid
    last = len(schedule) - 1
    ends = uniform[0], uniform[-2]
    if sampler.name not in DIFFUSERS_EXPLODING:
        ends = schedule.sigma_of(last), schedule.sigma_of(0)
    there, back = SPREAD[name]
    old_first, old_last = there(grid[0]), there(grid[-2])
    first, final = (there(end) for end in ends)
    parts = [(there(sigma) - old_first) / (old_last - old_first) for sigma in grid[:-1]]
    return [*(back(first + part * (final - first)) for part in parts), 0.0]


def diffusers_spacing(sampler: Sampler, process: Process) -> Spacing:
    """The model's spacing, or the scheduler's own where the model's files say none (``from_config``)."""
    schedule = trained_on(process)
    if schedule.config.spacing_said:
        return schedule.config.spacing
    return "leading" if sampler.name in DIFFUSERS_LEADING else "linspace"


def diffusers_whole_timesteps(sampler: Sampler, name: str) -> Callable[[Tensor], Tensor] | None:
    """DPM-Solver and UniPC know whole timesteps only: Karras's are rounded, the others of `SPREAD` cut."""
    if sampler.name not in DIFFUSERS_MULTISTEP or name not in SPREAD:
        return None
    return torch.round if name == "karras" else torch.trunc


def _diffusers_uniform(sampler: Sampler, schedule: NoiseSchedule, steps: int) -> list[float]:
    spacing, count = diffusers_spacing(sampler, schedule), len(schedule)
    final = schedule.sigma_of(0) if sampler.ends_where_trained and schedule.config.final_sigma == "first" else 0.0
    if sampler.name in DIFFUSERS_MULTISTEP and spacing != "trailing" and steps < count:
        timesteps = uniform_timesteps(schedule, steps + 1, spacing)[:-1]
    elif sampler.name in DIFFUSERS_EXPLODING and spacing == "linspace" and steps > 1:
        places = [(count - 1) * (1.0 - step / (steps - 1)) for step in range(steps)]
        return [*(_between(schedule, place) for place in places), final]
    else:
        timesteps = uniform_timesteps(schedule, steps, spacing)
    return [*(schedule.sigma_of(timestep) for timestep in timesteps), final]


def _between(schedule: NoiseSchedule, place: float) -> float:
    """Sigma of a fractional timestep, linear in sigma, where `NoiseSchedule.sigma_of` is linear in its logarithm."""
    low = min(int(place), len(schedule) - 2)
    below, above = schedule.sigma_of(low), schedule.sigma_of(low + 1)
    return below + (place - low) * (above - below)


DIFFUSERS = Program(
    "diffusers",
    weighting=None,
    guides_above_1=True,
    grid=diffusers_grid,
    starts_at_sigma=lambda sampler, process, sigma: (
        sampler.name in DIFFUSERS_EXPLODING and diffusers_spacing(sampler, process) != "leading"
    ),
    automatic=lambda sampler: "lcm" if sampler.name == "lcm" else "uniform",
    whole_timesteps=diffusers_whole_timesteps,
    skips_in_negative=False,
    functions_for_v={"pndm": partial(pndm, mixes_v=True)},
    lacks=frozenset({"dpmpp_2s_ancestral", "dpmpp_3m_sde"}),
    differs={"dpmpp_sde": "its noise comes from a Brownian path there that no seed fixes"},
)
