"""A1111's habits: the sigmas that it walks."""

from diafano.errors import UserError
from diafano.noise.process import Process
from diafano.noise.sources import gpu
from diafano.request.programs.grids import every_so_many, k_diffusion_grid
from diafano.request.programs.program import OTHER_UNIPC, PathSpan, Program, StrengthRuns
from diafano.sampling.samplers.table import Sampler
from diafano.sampling.sigmas import find_schedule, trained_on

A1111_ON_TIMESTEPS = ("ddim", "pndm")
"""Samplers of A1111 that walk timesteps of their own, whatever the schedule."""
A1111_DISCARDS = ("dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde")


def a1111_grid(sampler: Sampler, name: str, process: Process, steps: int) -> list[float]:
    """A1111 1.10. DDIM and PLMS leave out their last step, and so end at timestep 1."""
    schedule = trained_on(process)
    if sampler.name in A1111_ON_TIMESTEPS:
        sigmas = every_so_many(schedule, steps)[:-1]
        if len(sigmas) < 2:
            raise UserError(f"a1111's {sampler.label} takes no step at all with steps {steps}: use 2 or more")
        return sigmas
    if name == "kl_optimal" and steps < len(schedule):
        return find_schedule(name).function(schedule, steps + 1)[:-1]  # it ends at the smallest trained sigma
    return k_diffusion_grid(A1111_DISCARDS, sampler, name, schedule, steps)


A1111 = Program(
    "a1111",
    weighting="a1111",
    strength_runs=StrengthRuns.SHARE_AND_ONE,
    second_pass_runs=StrengthRuns.OF_A_LONGER_RUN,
    paths=PathSpan.WHOLE_RUN,
    start_noise=gpu,
    grid=a1111_grid,
    starts_at_sigma=lambda sampler, process, sigma: sampler.name not in A1111_ON_TIMESTEPS,
    lacks=frozenset({"ddpm"}),
    differs={"uni_pc": OTHER_UNIPC},
)
