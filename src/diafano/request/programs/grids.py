"""Which sigmas a program walks: its own idea of a schedule's name, written as a difference from ours.

A grid is made of the sampler, the schedule's name, the trained noise levels and the steps that were asked for. It
falls, and may have a step more or less than that, where the program does so.
"""

from collections.abc import Callable

from diafano.errors import UserError
from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSchedule
from diafano.sampling.samplers.table import Sampler
from diafano.sampling.sigmas import find_schedule, most_steps

ProgramGrid = Callable[[Sampler, str, Process, int], list[float]]


def diafano_grid(sampler: Sampler, name: str, process: Process, steps: int) -> list[float]:
    """What is drawn with unless another program is named."""
    grid = find_schedule(name).function
    if sampler.discards_next_to_last and steps < most_steps(process):
        return without_next_to_last(grid(process, steps + 1))
    sigmas = grid(process, steps)
    # Ending at the smallest trained sigma (`ScheduleConfig.final_sigma`) is DDIM's habit; most others end at 0.
    return sigmas if sampler.ends_where_trained else [*sigmas[:-1], 0.0]


def k_diffusion_grid(
    discards: tuple[str, ...], sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int
) -> list[float]:
    """k-diffusion's ``get_sigmas`` for the schedule "uniform", one left out for samplers among `discards`."""
    discard = sampler.name in discards and steps < len(schedule)
    steps += discard
    if name == "ddim_uniform":
        sigmas = every_so_many(schedule, steps)
    else:
        sigmas = find_schedule("normal" if name == "uniform" else name).function(schedule, steps)
    return without_next_to_last(sigmas) if discard else sigmas


def every_so_many(schedule: NoiseSchedule, steps: int) -> list[float]:
    """Every (trained / steps)-th sigma from timestep 1 on, all of them where the division has a remainder, then 0."""
    trained = len(schedule)
    if not 1 <= steps <= trained:
        raise UserError(f"{steps} steps cannot be taken: use 1 to {trained}")
    return [*(schedule.sigma_of(timestep) for timestep in reversed(range(1, trained, trained // steps))), 0.0]


def without_next_to_last(sigmas: list[float]) -> list[float]:
    """Without the smallest above 0."""
    return [*sigmas[:-2], sigmas[-1]]
