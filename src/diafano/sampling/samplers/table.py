"""Samplers: from a noisy latent to a clean one along a falling grid of sigmas, one plain function each.

All of them speak one language: ``denoise(x, sigma) -> clean estimate`` where ``x = clean + sigma * noise`` (the
variance-exploding form of k-diffusion and EDM; Karras et al. 2022). They see neither network nor prompt. `x` is
(batch, channels, height, width) and best float32, whatever the network computes in; `sigmas` is a list of steps + 1
Python floats, so that no step waits for the device. A run ends at the last sigma; at 0 the latent is clean.

In this currency several of the names are one formula. With fresh noise of size ``up`` and what is left of the old
one, ``down``, where ``up^2 + down^2 = after^2``, each first-order step is ``clean + down * slope + up * noise``:
DDIM at eta 0 is Euler (``up = 0``); DDPM, DDIM at eta 1 and Euler ancestral are the same too. They differ in the
grids that people use them with. Each is written here as its own paper has it, and tests hold them together.

A sampler is a function in `single_step` or `multistep` and a row in the table below.
"""

import inspect
import re
from dataclasses import dataclass

from diafano.errors import UserError
from diafano.sampling.samplers.multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, lms, pndm, uni_pc
from diafano.sampling.samplers.single_step import (
    ddim,
    ddpm,
    dpm_2,
    dpm_2_ancestral,
    dpmpp_2s_ancestral,
    dpmpp_sde,
    euler,
    euler_ancestral,
    heun,
    lcm,
)
from diafano.sampling.samplers.stepping import (
    Denoise,
    NoiseSource,
    OnStep,
    PathNoise,
    SamplerFunction,
    StepInfo,
    with_options,
)

__all__ = [
    "SAMPLERS",
    "Denoise",
    "NoiseSource",
    "OnStep",
    "PathNoise",
    "Sampler",
    "SamplerFunction",
    "StepInfo",
    "ddim",
    "ddpm",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler",
    "euler_ancestral",
    "find_sampler",
    "heun",
    "lcm",
    "lms",
    "pndm",
    "uni_pc",
    "with_options",
]


@dataclass(frozen=True)
class Sampler:
    """A row of `SAMPLERS`."""

    name: str
    function: SamplerFunction
    label: str
    """What A1111's menus and picture metadata call it."""
    order: int
    """Halving the steps' size divides a deterministic run's error by 2 to this power, once the steps are small (with
    eta, at 0). 0: more steps do not lead to the data."""
    evaluations_per_step: int
    """Calls of the denoiser (the last step of a run to sigma 0 is always one)."""
    aliases: tuple[str, ...]
    """Other names that users type: k-diffusion's, ComfyUI's, diffusers' classes."""
    schedule: str = "uniform"
    """The grid of sigmas that "Automatic" means for it."""
    stochastic: bool = False
    """Draws from `noise_source` by default."""
    discards_next_to_last: bool = False
    """A1111 makes its grid one step too long and leaves out the smallest sigma above 0, which it cannot use well."""
    brownian: bool = False
    """Takes its fresh noise from a path, if `noise_source` is a `PathNoise`."""
    ends_where_trained: bool = False
    """Its uniform grid ends where `ScheduleConfig.final_sigma` says; those of all others end at 0."""

    @property
    def options(self) -> tuple[str, ...]:
        """Its keyword arguments that are numbers: the settings that it takes, see `request.settings.SamplerOptions`."""
        taken = inspect.signature(self.function).parameters.values()
        return tuple(one.name for one in taken if one.annotation is float)


SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("ddpm", ddpm, "DDPM", 1, 1, ("k_ddpm", "DDPMScheduler"), stochastic=True),
        Sampler("ddim", ddim, "DDIM", 1, 1, ("k_ddim", "DDIMScheduler"), ends_where_trained=True),
        Sampler("euler", euler, "Euler", 1, 1, ("k_euler", "EulerDiscreteScheduler")),
        Sampler(
            "euler_ancestral",
            euler_ancestral,
            "Euler a",
            1,
            1,
            ("euler_a", "k_euler_a", "k_euler_ancestral", "EulerAncestralDiscreteScheduler"),
            stochastic=True,
        ),
        Sampler("heun", heun, "Heun", 2, 2, ("k_heun", "HeunDiscreteScheduler")),
        Sampler(
            "dpmpp_2m",
            dpmpp_2m,
            "DPM++ 2M",
            2,
            1,
            ("k_dpmpp_2m", "DPMSolverMultistepScheduler"),
            schedule="karras",
        ),
        Sampler(
            "dpmpp_sde",
            dpmpp_sde,
            "DPM++ SDE",
            2,
            2,
            ("dpmpp_sde_gpu", "k_dpmpp_sde", "DPMSolverSDEScheduler"),
            schedule="karras",
            stochastic=True,
            brownian=True,
        ),
        Sampler(
            "dpmpp_2m_sde",
            dpmpp_2m_sde,
            "DPM++ 2M SDE",
            2,
            1,
            ("dpmpp_2m_sde_gpu", "k_dpmpp_2m_sde", "sde-dpmsolver++"),
            schedule="exponential",
            stochastic=True,
            brownian=True,
        ),
        Sampler(
            "dpmpp_2s_ancestral",
            dpmpp_2s_ancestral,
            "DPM++ 2S a",
            2,
            2,
            ("dpmpp_2s_a", "k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"),
            schedule="karras",
            stochastic=True,
        ),
        Sampler(
            "dpmpp_3m_sde",
            dpmpp_3m_sde,
            "DPM++ 3M SDE",
            2,
            1,
            ("dpmpp_3m_sde_gpu", "k_dpmpp_3m_sde"),
            schedule="exponential",
            stochastic=True,
            brownian=True,
            discards_next_to_last=True,
        ),
        Sampler("lms", lms, "LMS", 4, 1, ("k_lms", "LMSDiscreteScheduler")),
        Sampler(
            "dpm_2",
            dpm_2,
            "DPM2",
            2,
            2,
            ("dpm2", "k_dpm_2", "KDPM2DiscreteScheduler"),
            schedule="karras",
            discards_next_to_last=True,
        ),
        Sampler(
            "dpm_2_ancestral",
            dpm_2_ancestral,
            "DPM2 a",
            2,
            2,
            ("dpm_2_a", "k_dpm_2_a", "k_dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
            schedule="karras",
            stochastic=True,
            discards_next_to_last=True,
        ),
        Sampler("pndm", pndm, "PLMS", 2, 1, ("k_plms", "PNDMScheduler"), ends_where_trained=True),
        Sampler("uni_pc", uni_pc, "UniPC", 3, 1, ("uni_pc_bh2", "k_unipc", "UniPCMultistepScheduler")),
        Sampler("lcm", lcm, "LCM", 0, 1, ("k_lcm", "LCMScheduler"), schedule="lcm", stochastic=True),
    )
}


def find_sampler(name: str) -> Sampler:
    """The sampler of that name, A1111 label or alias; case, and spaces for underscores, do not matter."""
    sampler = _BY_ANY_NAME.get(_plain(name))
    if sampler is None:
        raise UserError(f"unknown sampler {name!r}: use one of {', '.join(SAMPLERS)}")
    return sampler


def _plain(name: str) -> str:
    """Lower case, single underscores, "pp" for "++", k-diffusion's functions and diffusers' classes by their stems."""
    plain = re.sub(r"[\s_-]+", "_", name.strip().lower()).replace("++", "pp")
    return plain.removeprefix("sample_").removesuffix("scheduler")


_BY_ANY_NAME: dict[str, Sampler] = {
    _plain(name): sampler for sampler in SAMPLERS.values() for name in (sampler.name, sampler.label, *sampler.aliases)
}
