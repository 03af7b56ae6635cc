"""Guidance: two clean estimates, with the prompt and without it, become the one that the sampler follows.

Plain guidance is one number for all steps. It can also change from step to step, be kept to a part of the steps
(outside of it the network is asked once, not twice), and be rescaled, so that it does not widen the values' spread.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning, Told
from diafano.noise.process import Process
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.samplers.stepping import Denoise

GuidedDenoise = Callable[[Tensor, float, float], Tensor]
"""``guided(x, sigma, guidance)`` -> clean estimate of x's shape."""

OnEstimates = Callable[[float, Tensor, Tensor], object]
"""``on_estimates(sigma, without, towards)``: the clean estimates without the prompt and with it."""


def guidance_of_steps(
    guidance: float | Sequence[float], interval: tuple[float, float] | None, steps: int
) -> list[float]:
    """The guidance of each step.

    Several numbers are those of places that lie evenly from the first step to the last, with straight lines between
    them. `interval` is the share of the steps in which there is guidance, ``first <= step / steps < last``; outside it
    is 1, which is the prompt alone (Kynkäänniemi et al. 2024, arXiv 2404.07724, who count it in noise levels).
    """
    first, last = (0.0, 1.0) if interval is None else interval
    knots = [guidance] if isinstance(guidance, int | float) else list(guidance)
    return [_at(knots, step, steps) if first <= step / steps < last else 1.0 for step in range(steps)]


def _at(knots: Sequence[float], step: int, steps: int) -> float:
    """The line through the knots at this step."""
    place = step / (steps - 1) * (len(knots) - 1) if steps > 1 else 0.0
    before = min(int(place), len(knots) - 1)
    after = min(before + 1, len(knots) - 1)
    return knots[before] + (place - before) * (knots[after] - knots[before])


def classifier_free_guidance(
    denoiser: Denoiser,
    positive: Told,
    negative: Told | None,
    rescale: float = 0.0,
    on_estimates: OnEstimates | None = None,
) -> GuidedDenoise:
    """Classifier-free guidance (Ho and Salimans 2022): away from the negative text, towards the positive one.

    ``clean = negative + guidance * (positive - negative)``; mixing clean estimates or predictions is the same, as one
    is linear in the other. `positive` has a row a picture, `negative` as many or one for all. Both are evaluated as one
    batch of twice the size, negative first (diffusers' order). Guidance 1 takes the positive text alone and guidance 0
    the negative one alone: half the work, and `negative` may be None at guidance 1.
    `rescale` is `rescaled`'s; `on_estimates` is told of both estimates where both are made.
    """
    towards_text = Conditioning.of(positive)
    if negative is None:
        return lambda x, sigma, guidance: denoiser(x, sigma, towards_text)
    away_text = Conditioning.of(negative)
    if away_text.shapes != towards_text.shapes or len(away_text) not in (1, len(towards_text)):
        raise UserError(
            f"positive text {tuple(towards_text.tokens.shape)} and negative text {tuple(away_text.tokens.shape)} do not"
            " fit in one batch: give them the same number of tokens"
        )
    away_text = away_text.expand(len(towards_text))
    both = Conditioning.cat([away_text, towards_text], copies=2)  # once for all steps

    def guided(x: Tensor, sigma: float, guidance: float) -> Tensor:
        if guidance == 1.0:
            return denoiser(x, sigma, towards_text)
        if guidance == 0.0:
            return denoiser(x, sigma, away_text)
        without, towards = denoiser(torch.cat([x, x]), sigma, both).chunk(2)
        if on_estimates is not None:
            on_estimates(sigma, without, towards)
        clean = without + guidance * (towards - without)
        return clean if rescale == 0.0 else rescaled(denoiser.process, x, sigma, clean, towards, rescale)

    return guided


def guided(denoiser: Denoiser, positive: Told, negative: Told | None, guidance: float) -> Denoise:
    """`classifier_free_guidance` with one number for all steps."""
    if not math.isfinite(guidance):
        raise UserError(f"guidance {guidance} is not a number to multiply by: use 1 for none, 7.5 as is usual")
    if negative is None and guidance != 1.0:
        raise UserError(
            f"guidance {guidance} needs a negative text to lead away from: encode one, the empty prompt say"
        )
    follow = classifier_free_guidance(denoiser, positive, negative)
    return lambda x, sigma: follow(x, sigma, guidance)


def rescaled(process: Process, x: Tensor, sigma: float, clean: Tensor, towards: Tensor, share: float) -> Tensor:
    """The guided estimate `clean`, its prediction brought back to the spread of the one with the prompt alone.

    Lin et al. 2023 (arXiv 2305.08891), equations 15 and 16: the guided prediction (noise or v, as the network gives it)
    times ``share * spread of the prompt's / its own + (1 - share)``, a picture at a time. `towards` is the clean
    estimate with the prompt; `share` 0 leaves `clean` as it is, 0.7 is the paper's choice.
    """
    wanted, now = (process.prediction(x, sigma, estimate) for estimate in (towards, clean))
    ratio = _spread(wanted) / _spread(now)
    return process.clean(x, sigma, now * (share * ratio + (1.0 - share)))


def _spread(prediction: Tensor) -> Tensor:
    return prediction.std(dim=tuple(range(1, prediction.ndim)), keepdim=True)
