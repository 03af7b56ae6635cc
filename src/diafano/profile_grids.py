"""Which sigmas the programs of `profiles` walk: their own ideas of a schedule's name, written as differences from ours.

A grid is made of the sampler, the schedule's name, the trained noise levels and the steps that were asked for. It
falls, and may have a step more or less than that, where the program does so.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.noise import NoiseSchedule, Spacing
from diafano.samplers import Sampler
from diafano.schedules import beta_quantile, find_schedule, uniform_timesteps

Grid = Callable[[Sampler, str, NoiseSchedule, int], list[float]]

A1111_ON_TIMESTEPS = ("ddim", "pndm")
"""Samplers of A1111 that walk timesteps of their own, whatever the schedule."""

A1111_DISCARDS = ("dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde")
COMFYUI_DISCARDS = ("dpm_2", "dpm_2_ancestral", "uni_pc")
"""Samplers that make their grid one step too long and leave out the smallest sigma above 0."""

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


def diafano_grid(sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int) -> list[float]:
    """What is drawn with unless a profile is asked for."""
    grid = find_schedule(name).function
    if sampler.discards_next_to_last and steps < len(schedule):
        return _without_next_to_last(grid(schedule, steps + 1))
    sigmas = grid(schedule, steps)
    # Ending at the smallest trained sigma (`ScheduleConfig.final_sigma`) is DDIM's habit; most others end at 0.
    return sigmas if sampler.ends_where_trained else [*sigmas[:-1], 0.0]


def diffusers_grid(sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int) -> list[float]:
    """Uniform timesteps as each scheduler picks them; Karras, exponential and beta sigmas between those it picks.

    Schedules that diffusers does not have are ours.
    """
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


def diffusers_spacing(sampler: Sampler, schedule: NoiseSchedule) -> Spacing:
    """The model's spacing, or the scheduler's own where the model's files say none (``from_config``)."""
    if schedule.config.spacing_said:
        return schedule.config.spacing
    return "leading" if sampler.name in DIFFUSERS_LEADING else "linspace"


def diffusers_whole_timesteps(sampler: Sampler, name: str) -> Callable[[Tensor], Tensor] | None:
    """DPM-Solver and UniPC know whole timesteps only: Karras's are rounded, the others of `SPREAD` cut."""
    if sampler.name not in DIFFUSERS_MULTISTEP or name not in SPREAD:
        return None
    return torch.round if name == "karras" else torch.trunc


def a1111_grid(sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int) -> list[float]:
    """A1111 1.10. DDIM and PLMS leave out their last step, and so end at timestep 1."""
    if sampler.name in A1111_ON_TIMESTEPS:
        sigmas = _every_so_many(schedule, steps)[:-1]
        if len(sigmas) < 2:
            raise UserError(f"a1111's {sampler.label} takes no step at all with steps {steps}: use 2 or more")
        return sigmas
    if name == "kl_optimal" and steps < len(schedule):
        return find_schedule(name).function(schedule, steps + 1)[:-1]  # it ends at the smallest trained sigma
    return _k_diffusion_grid(A1111_DISCARDS, sampler, name, schedule, steps)


def comfyui_grid(sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int) -> list[float]:
    """ComfyUI's KSampler, and its node for Align Your Steps."""
    if name == "beta":  # quantiles of timesteps, not of sigmas, each but once
        last = len(schedule) - 1
        quantiles = [beta_quantile(1.0 - step / steps, 0.6, 0.6) * last for step in range(steps)]
        # The middle one is 499.5 but for the last digits, and must be rounded as if it were.
        places = [round(round(quantile, 9)) for quantile in quantiles]
        return [*(schedule.sigma_of(place) for place in dict.fromkeys(places)), 0.0]
    if name == "align_your_steps" and steps < len(schedule):
        return _without_next_to_last(find_schedule(name).function(schedule, steps + 1))
    return _k_diffusion_grid(COMFYUI_DISCARDS, sampler, name, schedule, steps)


def _k_diffusion_grid(
    discards: tuple[str, ...], sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int
) -> list[float]:
    discard = sampler.name in discards and steps < len(schedule)
    steps += discard
    if name == "ddim_uniform":
        sigmas = _every_so_many(schedule, steps)
    else:
        sigmas = find_schedule("normal" if name == "uniform" else name).function(schedule, steps)
    return _without_next_to_last(sigmas) if discard else sigmas


def _diffusers_uniform(sampler: Sampler, schedule: NoiseSchedule, steps: int) -> list[float]:
    spacing, trained = diffusers_spacing(sampler, schedule), len(schedule)
    final = schedule.sigma_of(0) if sampler.ends_where_trained and schedule.config.final_sigma == "first" else 0.0
    if sampler.name in DIFFUSERS_MULTISTEP and spacing != "trailing" and steps < trained:
        timesteps = uniform_timesteps(schedule, steps + 1, spacing)[:-1]
    elif sampler.name in DIFFUSERS_EXPLODING and spacing == "linspace" and steps > 1:
        places = [(trained - 1) * (1.0 - step / (steps - 1)) for step in range(steps)]
        return [*(_between(schedule, place) for place in places), final]
    else:
        timesteps = uniform_timesteps(schedule, steps, spacing)
    return [*(schedule.sigma_of(timestep) for timestep in timesteps), final]


def _between(schedule: NoiseSchedule, place: float) -> float:
    """Sigma of a fractional timestep, linear in sigma, where `NoiseSchedule.sigma_of` is linear in its logarithm."""
    low = min(int(place), len(schedule) - 2)
    below, above = schedule.sigma_of(low), schedule.sigma_of(low + 1)
    return below + (place - low) * (above - below)


def _every_so_many(schedule: NoiseSchedule, steps: int) -> list[float]:
    """Every (trained / steps)-th sigma from timestep 1 on, all of them where the division has a remainder, then 0."""
    trained = len(schedule)
    if not 1 <= steps <= trained:
        raise UserError(f"{steps} steps cannot be taken: use 1 to {trained}")
    return [*(schedule.sigma_of(timestep) for timestep in reversed(range(1, trained, trained // steps))), 0.0]


def _without_next_to_last(sigmas: list[float]) -> list[float]:
    return [*sigmas[:-2], sigmas[-1]]
