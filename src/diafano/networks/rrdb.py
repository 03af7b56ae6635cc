"""RRDBNet: a picture made larger by residual blocks in residual blocks, as ESRGAN and Real-ESRGAN do.

Wang et al. 2018 (ESRGAN, arXiv 1809.00219) and 2021 (Real-ESRGAN, arXiv 2107.10833); values are in [0, 1].

    pixels unshuffled            (b, 3, h, w) -> (b, 3 * f * f, h/f, w/f); f is 1, for networks by 2 or 1 it is 2 or 4
    -> conv, blocks, conv, +     (b, 64, h/f, w/f), nearly all of the work
    -> twice the size, conv      once for each doubling, nearest neighbours
    -> conv, conv                (b, 3, scale * h, scale * w)

Attribute names are Real-ESRGAN's; `checkpoints.upscaler` reads the other ones, too.
"""

import math
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from diafano.networks.enlarging import EnlargingNetwork, RunStage

SLOPE = 0.2
"""Of the leaky ReLU below 0."""
RESIDUAL = 0.2
"""What a block's result is multiplied by before it is added to its input."""
BLOCK_MARGIN = 15
"""How many positions away a block sees: three dense blocks of five 3x3 convolutions."""


class RRDBNetConfig(BaseModel):
    """Shape of an RRDBNet; the defaults are those of ESRGAN and RealESRGAN_x4plus (16,697,987 parameters)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=64, ge=1)
    """Channels of the maps between blocks (num_feat)."""
    blocks: int = Field(default=23, ge=1, le=256)
    """Residual-in-residual dense blocks (num_block)."""
    growth: int = Field(default=32, ge=1)
    """Channels that each convolution in a dense block adds (num_grow_ch). Other programs know 32 alone."""
    doublings: int = Field(default=2, ge=0, le=5)
    """How often height and width are doubled after the blocks."""
    unshuffle: int = Field(default=1, ge=1, le=4)
    """Edge of the squares of pixels that become channels before the first convolution."""
    picture_channels: int = Field(default=3, ge=1, le=3)
    plus: bool = False
    """ESRGAN+ (Rakotonirina & Rasoanaivo 2020, arXiv 2001.08073): two more additions in each dense block."""

    @model_validator(mode="after")
    def _enlarges(self) -> Self:
        if 2**self.doublings % self.unshuffle:
            raise ValueError(f"unshuffle {self.unshuffle} does not divide 2 ** doublings, {2**self.doublings}")
        return self

    @property
    def scale(self) -> int:
        """How many times larger the picture becomes."""
        return int(2**self.doublings // self.unshuffle)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it gave: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        width, growth = config.width, config.growth
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        self.conv1x1 = nn.Conv2d(width, growth, 1, bias=False) if config.plus else None

    def forward(self, x: Tensor) -> Tensor:
        x1 = F.leaky_relu(self.conv1(x), SLOPE)
        x2 = F.leaky_relu(self.conv2(torch.cat((x, x1), 1)), SLOPE)
        if self.conv1x1 is not None:
            x2 = x2 + self.conv1x1(x)
        x3 = F.leaky_relu(self.conv3(torch.cat((x, x1, x2), 1)), SLOPE)
        x4 = F.leaky_relu(self.conv4(torch.cat((x, x1, x2, x3), 1)), SLOPE)
        if self.conv1x1 is not None:
            x4 = x4 + x2
        return torch.add(x, self.conv5(torch.cat((x, x1, x2, x3, x4), 1)), alpha=RESIDUAL)


class RRDB(nn.Module):
    """Three dense blocks beside the identity: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(config) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(EnlargingNetwork):
    """Pixels (b, 3, h, w) in [0, 1] -> (b, 3, scale * h, scale * w), about [0, 1], not clamped.

    Height and width must be multiples of `config.unshuffle`.
    """

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = nn.Conv2d(config.picture_channels * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.ModuleList(RRDB(config) for _ in range(config.blocks))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, config.doublings + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, config.picture_channels, 3, padding=1)
        self.scale, self.multiple, self.picture_channels = config.scale, config.unshuffle, config.picture_channels
        # What the blocks begin with, what they are given and what they give; then the first and the larger picture.
        self.maps = max(3 * width // config.unshuffle**2, width + config.picture_channels * config.scale**2)
        self.radius = config.unshuffle * (2 + BLOCK_MARGIN * config.blocks + self._end_margin)

    @property
    def _end_margin(self) -> int:
        """How many positions of the blocks' result the layers after them see: each is finer by half than the next."""
        margin = 2
        for _ in range(self.config.doublings):
            margin = math.ceil((margin + 1) / 2)
        return margin

    def by_stages(self, x: Tensor, run: RunStage) -> Tensor:
        if self.config.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.config.unshuffle)
        first = body = run(self.conv_first, x, 1, 1)
        for block in self.body:
            body = run(block, body, BLOCK_MARGIN, 1)
        first = first + run(self.conv_body, body, 1, 1)
        del body  # its memory is for the large maps that follow
        return run(self._end, first, self._end_margin, int(2**self.config.doublings))

    def _end(self, x: Tensor) -> Tensor:
        for number in range(1, self.config.doublings + 1):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{number}")(x), SLOPE)
        made: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), SLOPE))
        return made
