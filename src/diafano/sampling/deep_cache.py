"""Deep features kept for a few steps: from one step to the next the UNet's coarse levels hardly change.

DeepCache (Ma, Fang and Wang 2024, arXiv 2312.00858): every `interval` steps the whole UNet runs; in the steps between,
only its first convolution and its last residual block and transformer do, on what the deep levels said last. An
approximation, for those who ask for it: docs/fast.md says what it saves and costs.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from diafano.errors import UserError
from diafano.networks.layers import sinusoidal_embedding
from diafano.networks.unet import UNet, UpLevel
from diafano.sampling.control import Controlled


class DeepCache:
    """A network for one run in the place of `network`. Whoever runs the sampler sets `step`, 0 at first."""

    def __init__(self, network: Controlled, interval: int) -> None:
        """Raises UserError for a network that ControlNets steer: they steer levels that are left out here."""
        if network.controls:
            raise UserError("deep_cache and ControlNets do not go together: leave one of them out")
        self.network, self.interval = network, interval
        self._step = 0
        self._calls = 0
        self._deep: dict[int, Tensor] = {}  # call within a step -> features

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step, self._calls = step, 0
        self.network.step = step

    def __call__(self, latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """As `UNet`. A step's first call is compared with that of the steps before, the second with the second."""
        call, self._calls = self._calls, self._calls + 1
        deep = self._deep.get(call)
        if self._step % self.interval == 0 or deep is None or deep.shape[0] != latent.shape[0]:
            return self._whole(call, latent, timestep, text)
        return shallow_pass(self.network.unet, deep, latent, timestep, text)

    def _whole(self, call: int, latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        unet = self.network.unet
        last = finest_level(unet).resnets[-1]

        def keep(_: object, given: tuple[Any, ...]) -> None:
            # Its input is what comes from below, and the first convolution's output that skipped everything.
            self._deep[call] = given[0][:, : -unet.config.widths[0]]

        hook = last.register_forward_pre_hook(keep)
        try:
            return self.network(latent, timestep, text)
        finally:
            hook.remove()


def shallow_pass(unet: UNet, deep: Tensor, latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """What `unet` says, if its last block were given `deep` (batch, widths, h, w) from the levels below."""
    time = unet.time_embedding(sinusoidal_embedding(timestep, unet.config.widths[0]).to(latent.dtype))
    level = finest_level(unet)
    x = level.resnets[-1](level.join(deep, unet.conv_in(latent)), time)
    if level.attentions:
        x = level.attentions[-1](x, text)
    predicted: Tensor = unet.conv_out(F.silu(unet.conv_norm_out(x)))
    return predicted


def finest_level(unet: UNet) -> UpLevel:
    level = unet.up_blocks[-1]
    assert isinstance(level, UpLevel)
    return level
