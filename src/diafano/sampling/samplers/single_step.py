"""Samplers of which each step stands alone: it keeps nothing from the step before.

The stochastic ones step down to below the next sigma and put fresh noise on top (`ancestral_step`); eta says how much
of the noise at the next sigma is fresh. Churn (Karras et al. 2022, algorithm 2) puts it on before the step instead.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from diafano.sampling.samplers.stepping import (
    Churn,
    Denoise,
    NoiseSource,
    OnStep,
    ancestral_step,
    check_eta,
    check_noise_scale,
    fresh_noise,
    leaves_pure_noise,
    noise_between,
    report,
    walk,
)


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
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        kept = (after / now) ** 2
        x = (1.0 - kept) * clean + kept * x  # posterior mean
        if after > 0.0:
            x = x + after * math.sqrt(1.0 - kept) * fresh_noise(noise_source, "ddpm")
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
    check_eta(eta)
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        up, down = ancestral_step(now, after, eta)  # equation 16
        noise_in_x = (x - clean) / now
        x = clean + down * noise_in_x
        if up > 0.0:
            x = x + up * fresh_noise(noise_source, "ddim with eta above 0")
    return x


def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Euler's method on dx/dsigma = (x - clean) / sigma: Karras et al. 2022, algorithm 2 without its second evaluation.

    First order. `s_churn` above 0 adds fresh noise, scaled by `s_noise`, before each step from a sigma between `s_tmin`
    and `s_tmax`.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise).checked()
    for step, now, after in walk(sigmas):
        x, raised = churn.before(x, now, len(sigmas) - 1, noise_source, "euler")
        clean = denoise(x, raised)
        report(on_step, step, raised, x, clean)
        slope = (x - clean) / raised
        x = x + (after - raised) * slope
    return x


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Euler's step down to below the next sigma, then fresh noise back up to it (k-diffusion).

    eta is the fresh noise's share, 0 being `euler`, and `s_noise` a factor on it. Noise is drawn for every step but the
    one to sigma 0.
    """
    check_eta(eta)
    check_noise_scale(s_noise)
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        up, down = ancestral_step(now, after, eta)
        slope = (x - clean) / now
        x = x + (down - now) * slope
        if up > 0.0:
            x = x + s_noise * up * fresh_noise(noise_source, "euler_ancestral")
    return x


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Karras et al. 2022, algorithm 1: Euler's step, then again with the mean of the slopes at both ends.

    Second order, two evaluations a step; the step to sigma 0, where the slope is not defined, is Euler's. `s_churn`
    and its kin as in `euler` (algorithm 2).
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise).checked()
    for step, now, after in walk(sigmas):
        x, raised = churn.before(x, now, len(sigmas) - 1, noise_source, "heun")
        clean = denoise(x, raised)
        report(on_step, step, raised, x, clean)
        slope = (x - clean) / raised
        ahead = x + (after - raised) * slope
        if after == 0.0 or leaves_pure_noise(raised, after):
            x = ahead
        else:
            slope_ahead = (ahead - denoise(ahead, after)) / after
            x = x + (after - raised) * (slope + slope_ahead) / 2.0
    return x


def dpm_2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver-2 (Lu et al. 2022, algorithm 1 with r = 1/2) in Karras's form: the midpoint rule (k-diffusion).

    Euler's step to the geometric middle of the two sigmas, then the whole step with the slope found there. Second
    order, two evaluations a step; the step to sigma 0 is Euler's. `s_churn` and its kin as in `euler`.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise).checked()
    for step, now, after in walk(sigmas):
        x, raised = churn.before(x, now, len(sigmas) - 1, noise_source, "dpm_2")
        clean = denoise(x, raised)
        report(on_step, step, raised, x, clean)
        x = _midpoint(denoise, x, clean, raised, after)
    return x


def dpm_2_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """`dpm_2`'s step down to below the next sigma, then fresh noise back up to it (k-diffusion)."""
    check_eta(eta)
    check_noise_scale(s_noise)
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        up, down = ancestral_step(now, after, eta)
        x = _midpoint(denoise, x, clean, now, down)
        if up > 0.0:
            x = x + s_noise * up * fresh_noise(noise_source, "dpm_2_ancestral")
    return x


def _midpoint(denoise: Denoise, x: Tensor, clean: Tensor, now: float, after: float) -> Tensor:
    """The step of `dpm_2`; `clean` is the estimate made from x."""
    slope = (x - clean) / now
    if after == 0.0 or leaves_pure_noise(now, after):
        return x + (after - now) * slope
    middle = math.sqrt(now * after)
    halfway = x + (middle - now) * slope
    slope_halfway = (halfway - denoise(halfway, middle)) / middle
    return x + (after - now) * slope_halfway


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1 with r = 1/2) down, then fresh noise back up (k-diffusion).

    As `dpm_2_ancestral`, but what is held constant over a step is the clean estimate, not the slope. Second order
    at eta 0, two evaluations a step.
    """
    check_eta(eta)
    check_noise_scale(s_noise)
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        up, down = ancestral_step(now, after, eta)
        if down > 0.0:
            middle = math.sqrt(now * down)
            halfway = _towards(clean, x, middle / now)
            clean = denoise(halfway, middle)
        x = _towards(clean, x, down / now)
        if up > 0.0:
            x = x + s_noise * up * fresh_noise(noise_source, "dpmpp_2s_ancestral")
    return x


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++ for the stochastic equation, with r = 1/2 (k-diffusion's ``sample_dpmpp_sde``).

    Like `dpmpp_2s_ancestral`, but the middle too gets fresh noise: two evaluations and two draws a step, none for the
    step to sigma 0. k-diffusion draws both from one Brownian path, as is done here if `noise_source` is a `PathNoise`.
    """
    check_eta(eta)
    check_noise_scale(s_noise)
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        if after > 0.0:
            middle = math.sqrt(now * after)
            up, down = ancestral_step(now, middle, eta)
            halfway = _towards(clean, x, down / now)
            if up > 0.0:
                halfway = halfway + s_noise * up * noise_between(noise_source, now, middle, "dpmpp_sde")
            clean = denoise(halfway, middle)
        up, down = ancestral_step(now, after, eta)
        x = _towards(clean, x, down / now)
        if up > 0.0:
            x = x + s_noise * up * noise_between(noise_source, now, after, "dpmpp_sde")
    return x


def lcm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023, algorithm 3).

    Each step takes the clean estimate for the answer and drowns it again. It is for models that were distilled to
    answer in one step (consistency models); for others more steps do not lead to the data. diffusers blends in a
    little of x, by at most 1e-5 at the timesteps in use; here the estimate is taken as it is.
    """
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        if after == now:
            continue
        x = clean
        if after > 0.0:
            x = x + after * fresh_noise(noise_source, "lcm")
    return x


def _towards(clean: Tensor, x: Tensor, kept: float) -> Tensor:
    """The exact step of DPM-Solver++ for a constant clean estimate; `kept` is the share of the sigma that stays."""
    return kept * x + (1.0 - kept) * clean
