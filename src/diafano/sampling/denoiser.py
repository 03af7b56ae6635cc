"""Denoiser: whatever a network was trained to predict becomes one thing, the clean estimate at a sigma.

Samplers hold ``x = clean + sigma * noise``; the network was trained on the same latent scaled to variance 1 and
answers with the noise, v or the clean latent, at a timestep. Both translations are here and nowhere else. `guidance`
makes a `Denoise` of a denoiser and two texts, the only thing that samplers know.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diafano.engine.precision import NanGuard
from diafano.noise.schedule import NoiseSchedule

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma)`` -> clean estimate of x's shape."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(latent, timestep, text)``: (batch, 4, h, w), (batch,) float, (batch, tokens, width) -> (batch, 4, h, w)."""


class Denoiser:
    """``denoiser(x, sigma, text) -> clean``, for a network trained on `schedule`.

    `dtype` is what the network computes in (None: that of x). x itself stays as the sampler holds it, at best
    float32: rounding x to half precision at each of 50 steps shows in the picture, rounding the network's input hardly.
    With a `nan_guard`, predictions that are not finite are made again in float32.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        dtype: torch.dtype | None = None,
        nan_guard: NanGuard | None = None,
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.dtype = dtype
        self.nan_guard = nan_guard

    def __call__(self, x: Tensor, sigma: float, text: Tensor) -> Tensor:
        """Clean estimate of `x` (batch, 4, h, w) at `sigma`, with `text` (batch, tokens, width); in x's dtype."""
        dtype = x.dtype if self.dtype is None else self.dtype
        c_in = 1.0 / math.sqrt(1.0 + sigma**2)  # EDM's name: x has variance 1 + sigma^2
        timestep = torch.full((x.shape[0],), self.schedule.timestep_of(sigma), device=x.device, dtype=torch.float32)

        def predict(dtype: torch.dtype) -> Tensor:
            return self.network((c_in * x).to(dtype), timestep, text.to(dtype))

        prediction = (predict(dtype) if self.nan_guard is None else self.nan_guard(predict, dtype)).to(x.dtype)
        return self.clean(x, sigma, prediction)

    def clean(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        """The clean estimate that the network's `prediction` for `x` means."""
        kind = self.schedule.config.prediction
        if kind == "noise":
            return x - sigma * prediction
        if kind == "v":  # Salimans and Ho 2022: clean = sqrt(a) * preserving - sqrt(1 - a) * v, with sqrt(a) = c_in
            c_in = 1.0 / math.sqrt(1.0 + sigma**2)
            return c_in**2 * x - (sigma * c_in) * prediction
        return prediction

    def prediction(self, x: Tensor, sigma: float, clean: Tensor) -> Tensor:
        """The prediction for `x` that means this clean estimate; `clean` the other way round, for sigmas above 0."""
        kind = self.schedule.config.prediction
        if kind == "noise":
            return (x - clean) / sigma
        if kind == "v":
            c_in = 1.0 / math.sqrt(1.0 + sigma**2)
            return (c_in**2 * x - clean) / (sigma * c_in)
        return clean
