"""SRVGGNetCompact: a picture made larger by a plain chain of convolutions, several times faster than RRDBNet.

Wang et al. 2021 (Real-ESRGAN's small models: realesr-general-x4v3, realesr-animevideov3); values are in [0, 1].

    conv, PReLU, so many times       (b, 3, h, w) -> (b, 64, h, w)
    -> conv, pixels shuffled         (b, 3, scale * h, scale * w)
    -> + the nearest neighbours      of the picture: the network learns what is missing in them
"""

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from diafano.networks.enlarging import EnlargingNetwork, RunStage


class CompactConfig(BaseModel):
    """Shape of an SRVGGNetCompact; the defaults are those of realesr-general-x4v3 (1,213,296 parameters)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=64, ge=1)
    layers: int = Field(default=32, ge=1, le=256)
    """Convolutions between the first and the last one (num_conv)."""
    scale: int = Field(default=4, ge=1, le=16)
    picture_channels: int = Field(default=3, ge=1, le=3)


class Compact(EnlargingNetwork):
    """Pixels (b, 3, h, w) in [0, 1] -> (b, 3, scale * h, scale * w), about [0, 1], not clamped.

    Attribute names are Real-ESRGAN's.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.picture_channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.layers):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.scale, self.picture_channels = config.scale, channels
        self.maps = 2 * channels * config.scale**2  # what is made, and what it is added to
        self.radius = config.layers + 2
        self.body = nn.ModuleList([*layers, nn.Conv2d(width, channels * config.scale**2, 3, padding=1)])

    def by_stages(self, x: Tensor, run: RunStage) -> Tensor:
        return run(self._all, x, self.radius, self.config.scale)

    def _all(self, x: Tensor) -> Tensor:
        made = x
        for layer in self.body:
            made = layer(made)
        return F.pixel_shuffle(made, self.config.scale) + F.interpolate(x, scale_factor=float(self.config.scale))
