"""Samplers that reuse the clean estimates of earlier steps: higher order for one evaluation a step.

Time is ``-log(sigma)``, in which DPM-Solver++ and UniPC are written; `duration` is a step's length in it. A first step
has no predecessor, a step that stays teaches nothing about change, and the one to sigma 0 takes infinite time: around
these the order falls, however few the steps are (as in k-diffusion; diffusers' ``lower_order_final`` differs only
where a run of fewer than 15 steps ends above sigma 0).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diafano.sampling.samplers.stepping import (
    Denoise,
    NoiseSource,
    OnStep,
    check_eta,
    check_noise_scale,
    leaves_pure_noise,
    noise_between,
    report,
    walk,
)

ADAMS_BASHFORTH = (
    (1.0,),
    (3.0 / 2.0, -1.0 / 2.0),
    (23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0),
    (55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0),
)
"""Weights of the last slopes, the newest first, for steps of equal length."""


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022, algorithm 2 (multistep, data prediction), second order for one evaluation.

    The clean estimate is extended linearly in time, from this step's and the last one's.
    """
    clean_before: Tensor | None = None
    duration_before = 0.0
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        duration = math.log(now / after) if after > 0.0 else math.inf
        if clean_before is None or after == 0.0 or duration_before == 0.0:
            extended = clean
        else:
            extended = clean + duration / (2.0 * duration_before) * (clean - clean_before)
        shrink = after / now  # exp(-duration)
        x = shrink * x + (1.0 - shrink) * extended
        clean_before, duration_before = clean, duration
    return x


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, section 5): `dpmpp_2m` on the stochastic equation, midpoint form.

    eta 0 is `dpmpp_2m`. Noise is drawn for every step but the one to sigma 0.
    """
    check_eta(eta)
    check_noise_scale(s_noise)
    clean_before: Tensor | None = None
    duration_before = 0.0
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        duration = math.log(now / after) if after > 0.0 else math.inf
        if clean_before is None or after == 0.0 or duration_before == 0.0:
            extended = clean
        else:
            extended = clean + duration / (2.0 * duration_before) * (clean - clean_before)
        shrink = math.exp(-(1.0 + eta) * duration)
        x = shrink * x + (1.0 - shrink) * extended
        x = _with_fresh_noise(x, now, after, eta, s_noise, noise_source, "dpmpp_2m_sde")
        clean_before, duration_before = clean, duration
    return x


def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(3M) on the stochastic equation (k-diffusion's ``sample_dpmpp_3m_sde``).

    The clean estimate's first and second derivative in time come from this step's and the last two. Its errors at
    eta 0 fall with the second order, as k-diffusion's do. Noise is drawn for every step but the one to sigma 0.
    """
    check_eta(eta)
    check_noise_scale(s_noise)
    earlier: list[tuple[Tensor, float]] = []  # clean estimates and the durations of the steps from them, newest first
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        duration = math.log(now / after) if after > 0.0 else math.inf
        noisy_duration = (1.0 + eta) * duration
        shrink = math.exp(-noisy_duration)
        x = shrink * x + (1.0 - shrink) * clean
        if earlier and 0.0 < duration < math.inf:
            phi_2 = math.expm1(-noisy_duration) / noisy_duration + 1.0  # the exponential integrals of the polynomial
            phi_3 = phi_2 / noisy_duration - 0.5
            first, first_apart = earlier[0]
            change = (clean - first) * (duration / first_apart)
            if len(earlier) == 1:
                x = x + phi_2 * change
            else:
                second, second_apart = earlier[1]
                change_before = (first - second) * (duration / second_apart)
                bend = (change - change_before) * (duration / (first_apart + second_apart))
                x = x + phi_2 * (change + first_apart / duration * bend) - phi_3 * bend
        x = _with_fresh_noise(x, now, after, eta, s_noise, noise_source, "dpmpp_3m_sde")
        if duration > 0.0:
            earlier = [(clean, duration), *earlier[:1]]
    return x


def _with_fresh_noise(
    x: Tensor,
    now: float,
    after: float,
    eta: float,
    s_noise: float,
    noise_source: NoiseSource | None,
    who: str,
) -> Tensor:
    """What the stochastic equation adds during a step, none in the one to sigma 0."""
    size = after * math.sqrt(-math.expm1(-2.0 * eta * math.log(now / after))) if after > 0.0 else 0.0
    return x + s_noise * size * noise_between(noise_source, now, after, who) if size > 0.0 else x


def lms(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Linear multistep (Adams-Bashforth) on dx/dsigma over any grid, fourth order from the fourth step on.

    The polynomial through the last four slopes is integrated over the step exactly (k-diffusion does it numerically).
    The first steps are of order 1, 2 and 3.
    """
    slopes: list[tuple[float, Tensor]] = []  # newest first, at different sigmas
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        if slopes and slopes[0][0] == now:
            slopes.pop(0)
        slopes = [(now, (x - clean) / now), *slopes[:3]]
        points = [sigma for sigma, _ in slopes]
        for which, (_, slope) in enumerate(slopes):
            x = x + _lagrange_integral(points, which, now, after) * slope
    return x


def _lagrange_integral(points: list[float], which: int, start: float, end: float) -> float:
    """Integral from `start` to `end` of the polynomial that is 1 at one of at most four points and 0 at the others.

    Gauss's rule with two nodes is exact up to degree 3.
    """
    middle, half = (start + end) / 2.0, (end - start) / 2.0
    nodes = (middle - half / math.sqrt(3.0), middle + half / math.sqrt(3.0))
    others = [point for index, point in enumerate(points) if index != which]
    return half * sum(math.prod((node - other) / (points[which] - other) for other in others) for node in nodes)


def pndm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    mixes_v: bool = False,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Pseudo linear multistep, PLMS (Liu et al. 2022, equation 12; its first step as in latent diffusion's sampler).

    Adams-Bashforth's weights for equal steps on the slopes, then DDIM's step with the mixture: second order. The
    first step evaluates twice, at both its ends, so that a run takes one evaluation more than it has steps.

    With `mixes_v` what is mixed is v (Salimans and Ho 2022) instead, which is no slope: v's of different noise levels
    do not belong together. diffusers' PNDMScheduler does so with models that predict v.
    """
    kept: list[Tensor] = []  # slopes, or v's, newest first
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        slope = (x - clean) / now
        kept = [_v(x, clean, now) if mixes_v else slope, *kept[:3]]
        weights: tuple[float, ...] = ADAMS_BASHFORTH[len(kept) - 1]
        used = kept
        if step == 0 and after > 0.0 and not leaves_pure_noise(now, after):
            ahead = x + (after - now) * slope
            clean_ahead = denoise(ahead, after)
            slope_ahead = (ahead - clean_ahead) / after
            weights, used = (0.5, 0.5), [kept[0], _v(ahead, clean_ahead, after) if mixes_v else slope_ahead]
        mixture = sum((weight * one for weight, one in zip(weights, used, strict=True)), torch.zeros_like(x))
        x = x + (after - now) * (_slope_of_v(x, mixture, now) if mixes_v else mixture)
    return x


def _v(x: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """``sqrt(a) * noise - sqrt(1 - a) * clean`` with ``a = 1 / (1 + sigma^2)`` and the noise that is left in x."""
    return ((x - clean) / sigma - sigma * clean) / math.sqrt(1.0 + sigma**2)


def _slope_of_v(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """`_v` reversed: the noise in x, which is dx/dsigma."""
    return (sigma / math.sqrt(1.0 + sigma**2) * x + v) / math.sqrt(1.0 + sigma**2)


def uni_pc(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_source: NoiseSource | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """UniPC of order 2 with data prediction and B(h) = exp(h) - 1, "bh2" (Zhao et al. 2023, algorithms 5 and 6).

    The predictor is `dpmpp_2m`'s step. The estimate that the next step makes anyway then corrects it, for one order
    more and no further evaluation. As in diffusers the last step is not corrected.
    """
    known: list[tuple[Tensor, float]] = []  # clean estimates and the sigmas that they were made at, newest first
    x_before = x
    for step, now, after in walk(sigmas):
        clean = denoise(x, now)
        report(on_step, step, now, x, clean)
        if known and now == known[0][1]:
            known.pop(0)  # the step stayed: nothing to correct
        elif known:
            x = _corrected(x_before, clean, now, known)
        extended = clean
        if known and after > 0.0:
            clean_before, sigma_before = known[0]
            durations = math.log(now / after) / math.log(sigma_before / now)
            extended = clean + durations / 2.0 * (clean - clean_before)
        x_before, known = x, [(clean, now), *known[:1]]
        x = after / now * x + (1.0 - after / now) * extended
    return x


def _corrected(x_before: Tensor, clean: Tensor, now: float, known: list[tuple[Tensor, float]]) -> Tensor:
    """UniC: the step from `x_before` to `now` once more, with the clean estimate made at its end.

    `known` are the one or two estimates before that; the weights solve the paper's order conditions for them.
    """
    clean_before, sigma_before = known[0]
    duration = math.log(sigma_before / now)
    mixed = clean_before + 0.5 * (clean - clean_before)
    if len(known) == 2:
        clean_oldest, sigma_oldest = known[1]
        where_oldest = -math.log(sigma_oldest / sigma_before) / duration
        grown = math.expm1(-duration)
        phi_2 = -grown / duration - 1.0
        phi_3 = -phi_2 / duration - 0.5
        first, second = phi_2 / grown, 2.0 * phi_3 / grown
        weight_oldest = (first - second) / (1.0 - where_oldest)
        mixed = (
            clean_before
            + weight_oldest / where_oldest * (clean_oldest - clean_before)
            + (first - weight_oldest) * (clean - clean_before)
        )
    shrink = now / sigma_before
    return shrink * x_before + (1.0 - shrink) * mixed
