"""Deep features kept for a few steps: from one step to the next the UNet's coarse levels hardly change.

DeepCache (Ma, Fang and Wang 2024, arXiv 2312.00858): every `interval` steps the whole UNet runs; in the steps between,
only its first convolution and its last residual block and transformer do, on what the deep levels said last. An
approximation, for those who ask for it: docs/fast.md says what it saves and costs.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from diafano.networks.conditioning import Conditioning
from diafano.networks.layers import sinusoidal_embedding
from diafano.networks.unet import UNet, UpLevel
from diafano.sampling.clock import Clock


class DeepCache:
    """A `Network` for one run in the place of a UNet."""

    def __init__(self, unet: UNet, interval: int, clock: Clock) -> None:
        self.unet, self.interval, self.clock = unet, interval, clock
        self._deep: dict[int, Tensor] = {}  # call within a step -> features

    def __call__(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """As `UNet`. A step's first call is compared with that of the steps before, the second with the second."""
        call, deep = self.clock.call, self._deep.get(self.clock.call)
        if self.clock.step % self.interval == 0 or deep is None or deep.shape[0] != latent.shape[0]:
            return self._whole(call, latent, timestep, conditioning)
        return shallow_pass(self.unet, deep, latent, timestep, conditioning)

    def _whole(self, call: int, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        last = finest_level(self.unet).resnets[-1]

        def keep(_: object, given: tuple[Any, ...]) -> None:
            # Its input is what comes from below, and the first convolution's output that skipped everything.
            self._deep[call] = given[0][:, : -self.unet.config.widths[0]]

        hook = last.register_forward_pre_hook(keep)
        try:
            predicted: Tensor = self.unet(latent, timestep, conditioning)
            return predicted
        finally:
            hook.remove()


def shallow_pass(unet: UNet, deep: Tensor, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
    """What `unet` says, if its last block were given `deep` (batch, widths, h, w) from the levels below."""
    time = unet.time_embedding(sinusoidal_embedding(timestep, unet.config.widths[0]).to(latent.dtype))
    level = finest_level(unet)
    x = level.resnets[-1](level.join(deep, unet.conv_in(latent)), time)
    if level.attentions:
        x = level.attentions[-1](x, conditioning.tokens)
    predicted: Tensor = unet.conv_out(F.silu(unet.conv_norm_out(x)))
    return predicted


def finest_level(unet: UNet) -> UpLevel:
    level = unet.up_blocks[-1]
    assert isinstance(level, UpLevel)
    return level
