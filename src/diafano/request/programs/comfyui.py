"""ComfyUI's habits: the sigmas that it walks."""

import torch

from diafano.noise.process import Process
from diafano.noise.sources import gpu
from diafano.request.programs.grids import k_diffusion_grid, without_next_to_last
from diafano.request.programs.program import OTHER_UNIPC, PathSpan, Program, StrengthRuns
from diafano.sampling.samplers.table import Sampler
from diafano.sampling.sigmas import beta_quantile, find_schedule, trained_on

COMFYUI_DISCARDS = ("dpm_2", "dpm_2_ancestral", "uni_pc")
"""Samplers that make their grid one step too long and leave out the smallest sigma above 0."""


def comfyui_grid(sampler: Sampler, name: str, process: Process, steps: int) -> list[float]:
    """ComfyUI's KSampler, and its node for Align Your Steps."""
    schedule = trained_on(process)
    if name == "beta":  # quantiles of timesteps, not of sigmas, each but once
        last = len(schedule) - 1
        quantiles = [beta_quantile(1.0 - step / steps, 0.6, 0.6) * last for step in range(steps)]
        # The middle one is 499.5 but for the last digits, and must be rounded as if it were.
        places = [round(round(quantile, 9)) for quantile in quantiles]
        return [*(schedule.sigma_of(place) for place in dict.fromkeys(places)), 0.0]
    if name == "align_your_steps" and steps < len(schedule):
        return without_next_to_last(find_schedule(name).function(schedule, steps + 1))
    return k_diffusion_grid(COMFYUI_DISCARDS, sampler, name, schedule, steps)


COMFYUI = Program(
    "comfyui",
    weighting="comfyui",
    strength_runs=StrengthRuns.OF_A_LONGER_RUN,
    paths=PathSpan.PART_THAT_IS_RUN,
    noise_on_the_way=gpu,
    one_generator_for_all=True,
    grid=comfyui_grid,
    starts_at_sigma=lambda sampler, process, sigma: sigma < (1.0 - 1e-5) * process.sigma_max,
    automatic=lambda sampler: "normal",
    whole_timesteps=lambda sampler, schedule: torch.round,
    lacks=frozenset({"pndm"}),
    differs={"uni_pc": OTHER_UNIPC},
)
