"""Denoiser: whatever a network was trained to predict becomes one thing, the clean estimate at a sigma.

Samplers hold ``x = clean + sigma * noise``; the network was trained on the same latent scaled to variance 1 and
answers with the noise, v or the clean latent, at a timestep. Both translations are here and nowhere else. Guidance
is a function from a denoiser and two texts to a `Denoise`, the only thing that samplers know.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.noise import NoiseSchedule

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma)`` -> clean estimate of x's shape."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(latent, timestep, text)``: (batch, 4, h, w), (batch,) float, (batch, tokens, width) -> (batch, 4, h, w)."""


class Denoiser:
    """``denoiser(x, sigma, text) -> clean``, for a network trained on `schedule`.

    `dtype` is what the network computes in (None: that of x). x itself stays as the sampler holds it, at best
    float32: rounding x to half precision at each of 50 steps shows in the picture, rounding the network's input hardly.
    """

    def __init__(self, network: Network, schedule: NoiseSchedule, dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.schedule = schedule
        self.dtype = dtype

    def __call__(self, x: Tensor, sigma: float, text: Tensor) -> Tensor:
        """Clean estimate of `x` (batch, 4, h, w) at `sigma`, with `text` (batch, tokens, width); in x's dtype."""
        dtype = x.dtype if self.dtype is None else self.dtype
        c_in = 1.0 / math.sqrt(1.0 + sigma**2)  # EDM's name: x has variance 1 + sigma^2
        timestep = torch.full((x.shape[0],), self.schedule.timestep_of(sigma), device=x.device, dtype=torch.float32)
        prediction = self.network((c_in * x).to(dtype), timestep, text.to(dtype)).to(x.dtype)
        kind = self.schedule.config.prediction
        if kind == "noise":
            return x - sigma * prediction
        if kind == "v":  # Salimans and Ho 2022: clean = sqrt(a) * preserving - sqrt(1 - a) * v, with sqrt(a) = c_in
            return c_in**2 * x - (sigma * c_in) * prediction
        return prediction


def guided(denoiser: Denoiser, positive: Tensor, negative: Tensor | None, guidance: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022): away from the negative text, towards the positive one.

    ``clean = negative + guidance * (positive - negative)``; mixing clean estimates or predictions is the same, as one
    is linear in the other. `positive` is (batch, tokens, width), `negative` the same or (1, tokens, width). Both are
    evaluated as one batch of twice the size, negative first (diffusers' order). Guidance 1 takes the positive text
    alone and guidance 0 the negative one alone: half the work, and `negative` may be None at guidance 1.
    """
    if not math.isfinite(guidance):
        raise UserError(f"guidance {guidance} is not a number to multiply by: use 1 for none, 7.5 as is usual")
    if guidance == 1.0:
        return lambda x, sigma: denoiser(x, sigma, positive)
    if negative is None:
        raise UserError(
            f"guidance {guidance} needs a negative text to lead away from: encode one, the empty prompt say"
        )
    if negative.shape[1:] != positive.shape[1:] or negative.shape[0] not in (1, positive.shape[0]):
        raise UserError(
            f"positive text {tuple(positive.shape)} and negative text {tuple(negative.shape)} do not fit in one batch: "
            "give them the same number of tokens"
        )
    negative = negative.expand_as(positive)
    if guidance == 0.0:
        return lambda x, sigma: denoiser(x, sigma, negative)
    text = torch.cat([negative, positive])  # (2 * batch, tokens, width), once for all steps

    def denoise(x: Tensor, sigma: float) -> Tensor:
        without, towards = denoiser(torch.cat([x, x]), sigma, text).chunk(2)
        return without + guidance * (towards - without)

    return denoise
