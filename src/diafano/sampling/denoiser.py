"""Denoiser: whatever a network was trained to predict becomes one thing, the clean estimate at a sigma.

Samplers hold ``x = clean + sigma * noise``; what the network sees of it and what its answer means is its `Process`'s.
`guidance` makes a `Denoise` of a denoiser and two texts, the only thing that samplers know.
"""

import torch
from torch import Tensor

from diafano.engine.precision import NanGuard
from diafano.networks.conditioning import Conditioning, Network, Told
from diafano.noise.process import Process


class Denoiser:
    """``denoiser(x, sigma, conditioning) -> clean``, for a network that was trained with `process`.

    `dtype` is what the network computes in (None: that of x). x itself stays as the sampler holds it, at best
    float32: rounding x to half precision at each of 50 steps shows in the picture, rounding the network's input hardly.
    With a `nan_guard`, predictions that are not finite are made again in float32.
    """

    def __init__(
        self,
        network: Network,
        process: Process,
        dtype: torch.dtype | None = None,
        nan_guard: NanGuard | None = None,
    ) -> None:
        self.network = network
        self.process = process
        self.dtype = dtype
        self.nan_guard = nan_guard

    def __call__(self, x: Tensor, sigma: float, conditioning: Told) -> Tensor:
        """Clean estimate of `x` (batch, channels, h, w) at `sigma`, in x's dtype; the conditioning has a row a row."""
        told = Conditioning.of(conditioning)
        dtype = x.dtype if self.dtype is None else self.dtype
        scale = self.process.input_scale(sigma)
        timestep = torch.full((x.shape[0],), self.process.timestep_of(sigma), device=x.device, dtype=torch.float32)

        def predict(dtype: torch.dtype) -> Tensor:
            return self.network((scale * x).to(dtype), timestep, told.to(dtype))

        prediction = predict(dtype) if self.nan_guard is None else self.nan_guard(predict, dtype)
        return self.process.clean(x, sigma, prediction.to(x.dtype))
