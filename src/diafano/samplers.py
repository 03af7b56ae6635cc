"""Samplers: from a noisy latent to a clean one along a falling grid of sigmas, one plain function each.

All of them speak one language: ``denoise(x, sigma) -> clean estimate`` where ``x = clean + sigma * noise`` (the
variance-exploding form of k-diffusion and EDM; Karras et al. 2022). They see neither network nor prompt. `x` is
(batch, channels, height, width) and best float32, whatever the network computes in; `sigmas` is a list of steps + 1
Python floats, so that no step waits for the device. A run ends at the last sigma; at 0 the latent is clean.

In this currency several of the names are one formula. With fresh noise of size ``up`` and what is left of the old
one, ``down``, where ``up^2 + down^2 = after^2``, each first-order step is ``clean + down * slope + up * noise``:
DDIM at eta 0 is Euler (``up = 0``); DDPM, DDIM at eta 1 and Euler ancestral are the same too. They differ in the
grids that people use them with. Each is written here as its own paper has it, and tests hold them together.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from diafano.errors import UserError

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma)`` -> clean estimate of x's shape."""

NoiseSource = Callable[[], Tensor]
"""Gives unit-normal noise of x's shape at each call."""


class StepInfo(NamedTuple):
    """What a watcher sees of one step, before x moves on."""

    step: int
    """0 for the first."""
    sigma: float
    x: Tensor
    """Noisy latent at `sigma`."""
    clean: Tensor
    """Clean estimate made from x (where a step evaluates twice: the first)."""


OnStep = Callable[[StepInfo], object]


def ddpm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Ancestral sampling from the posterior q(x_after | x_now, clean): Ho et al. 2020, equations 6 and 7.

    The variance is the posterior's own (beta tilde; "fixed_small" in diffusers).
    """
    for step, now, after in _steps(sigmas):
        clean = denoise(x, now)
        _report(on_step, step, now, x, clean)
        kept = (after / now) ** 2
        x = (1.0 - kept) * clean + kept * x  # posterior mean
        if after > 0.0:
            x = x + after * math.sqrt(1.0 - kept) * _fresh_noise(noise_source, "ddpm")
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 0.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Song et al. 2020, equation 12, divided by sqrt(alpha). eta 0: no randomness; eta 1: DDPM.

    Noise is drawn only if eta is above 0, and not for the step to sigma 0.
    """
    _check_eta(eta)
    for step, now, after in _steps(sigmas):
        clean = denoise(x, now)
        _report(on_step, step, now, x, clean)
        up, down = _up_and_down(now, after, eta)  # equation 16
        noise_in_x = (x - clean) / now
        x = clean + down * noise_in_x
        if up > 0.0:
            x = x + up * _fresh_noise(noise_source, "ddim with eta above 0")
    return x


def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Euler's method on dx/dsigma = (x - clean) / sigma: Karras et al. 2022, algorithm 2 without churn, first order."""
    for step, now, after in _steps(sigmas):
        clean = denoise(x, now)
        _report(on_step, step, now, x, clean)
        slope = (x - clean) / now
        x = x + (after - now) * slope
    return x


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Euler's step down to below the next sigma, then fresh noise back up to it (k-diffusion).

    eta scales the fresh noise: 0 is `euler`. Noise is drawn for every step but the one to sigma 0.
    """
    _check_eta(eta)
    for step, now, after in _steps(sigmas):
        clean = denoise(x, now)
        _report(on_step, step, now, x, clean)
        up, down = _up_and_down(now, after, eta)
        slope = (x - clean) / now
        x = x + (down - now) * slope
        if up > 0.0:
            x = x + up * _fresh_noise(noise_source, "euler_ancestral")
    return x


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Karras et al. 2022, algorithm 1: Euler's step, then again with the mean of the slopes at both ends.

    Second order, two evaluations a step; the step to sigma 0, where the slope is not defined, is Euler's.
    """
    for step, now, after in _steps(sigmas):
        clean = denoise(x, now)
        _report(on_step, step, now, x, clean)
        slope = (x - clean) / now
        ahead = x + (after - now) * slope
        if after == 0.0:
            x = ahead
        else:
            slope_ahead = (ahead - denoise(ahead, after)) / after
            x = x + (after - now) * (slope + slope_ahead) / 2.0
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022, algorithm 2 (multistep, data prediction), second order for one evaluation.

    The clean estimate is extended linearly in time = -log(sigma), from this step's and the last one's. The first step
    has no predecessor and the one to sigma 0 takes infinite time: both are first order. As in k-diffusion, all others
    are second order however few they are; diffusers' ``lower_order_final`` differs only where a run of fewer than 15
    steps ends above sigma 0.
    """
    clean_before: Tensor | None = None
    duration_before = 0.0
    for step, now, after in _steps(sigmas):
        clean = denoise(x, now)
        _report(on_step, step, now, x, clean)
        duration = math.log(now / after) if after > 0.0 else math.inf
        if clean_before is None or after == 0.0 or duration_before == 0.0:
            extended = clean
        else:
            extended = clean + duration / (2.0 * duration_before) * (clean - clean_before)
        shrink = after / now  # exp(-duration)
        x = shrink * x + (1.0 - shrink) * extended
        clean_before, duration_before = clean, duration
    return x


@dataclass(frozen=True)
class Sampler:
    """A row of `SAMPLERS`."""

    name: str
    function: Callable[..., Tensor]
    """``function(denoise, x, sigmas, *, noise_source=None, on_step=None, **options) -> x``."""
    label: str
    """What A1111's menus and picture metadata call it."""
    order: int
    """Halving the steps' size divides a deterministic run's error by 2 to this power (stochastic ones: 1)."""
    evaluations_per_step: int
    """Calls of the denoiser (the last step of a run to sigma 0 is always one)."""
    aliases: tuple[str, ...]
    """Other names that users type: k-diffusion's, ComfyUI's, diffusers' classes."""
    schedule: str = "uniform"
    """The grid of sigmas that "Automatic" means for it."""
    stochastic: bool = False
    """Draws from `noise_source` by default."""
    options: tuple[str, ...] = ()
    """Keyword arguments that it takes beyond the common ones."""


SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("ddpm", ddpm, "DDPM", 1, 1, ("k_ddpm", "DDPMScheduler"), stochastic=True),
        Sampler("ddim", ddim, "DDIM", 1, 1, ("k_ddim", "DDIMScheduler"), options=("eta",)),
        Sampler("euler", euler, "Euler", 1, 1, ("k_euler", "EulerDiscreteScheduler")),
        Sampler(
            "euler_ancestral",
            euler_ancestral,
            "Euler a",
            1,
            1,
            ("euler_a", "k_euler_a", "k_euler_ancestral", "EulerAncestralDiscreteScheduler"),
            stochastic=True,
            options=("eta",),
        ),
        Sampler("heun", heun, "Heun", 2, 2, ("k_heun", "HeunDiscreteScheduler")),
        Sampler(
            "dpmpp_2m",
            dpmpp_2m,
            "DPM++ 2M",
            2,
            1,
            ("k_dpmpp_2m", "dpm++_2m", "DPMSolverMultistepScheduler"),
            schedule="karras",
        ),
    )
}


def find_sampler(name: str) -> Sampler:
    """The sampler of that name, A1111 label or alias; case, and spaces for underscores, do not matter."""
    sampler = _BY_ANY_NAME.get(_plain(name))
    if sampler is None:
        raise UserError(f"unknown sampler {name!r}: use one of {', '.join(SAMPLERS)}")
    return sampler


def _plain(name: str) -> str:
    """Lower case, single underscores, and diffusers' classes with or without "Scheduler"."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower()).removesuffix("scheduler")


_BY_ANY_NAME: dict[str, Sampler] = {
    _plain(name): sampler for sampler in SAMPLERS.values() for name in (sampler.name, sampler.label, *sampler.aliases)
}


def _steps(sigmas: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """(step, sigma now, sigma after) along a grid that never rises and is above 0 until its end."""
    pairs = list(itertools.pairwise(sigmas))
    for step, (now, after) in enumerate(pairs):
        if not (math.isfinite(now) and now > 0.0 and 0.0 <= after <= now):
            raise UserError(f"sigmas must fall and stay above 0 until the end, but step {step} goes {now} -> {after}")
    return ((step, now, after) for step, (now, after) in enumerate(pairs))


def _up_and_down(now: float, after: float, eta: float) -> tuple[float, float]:
    """Sizes of fresh and kept noise at the sigma `after`: ``up^2 + down^2 = after^2``."""
    share = eta * math.sqrt(1.0 - (after / now) ** 2)
    return after * share, after * math.sqrt(1.0 - share**2)


def _report(on_step: OnStep | None, step: int, sigma: float, x: Tensor, clean: Tensor) -> None:
    if on_step is not None:
        on_step(StepInfo(step, sigma, x, clean))


def _fresh_noise(noise_source: NoiseSource | None, who: str) -> Tensor:
    if noise_source is None:
        raise UserError(f"{who} draws fresh noise at each step: pass a noise_source")
    return noise_source()


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta {eta} is no share of fresh noise: use 0 (none) to 1 (all)")
