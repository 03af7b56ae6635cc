"""The judge's network: which objects stand where in a 64x64 picture, in which tint, and on which background.

Objects as points (CenterNet: Zhou et al. 2019, arXiv 1904.07850): a map per class with a peak at each object's centre.
It shares no weights with the generator and learns from rendered scenes alone.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from diafano.networks.layers import ResidualBlock
from diafano.training.data.emoji.colours import COLOURS, TINTS

EDGE = 64
"""Width and height in pixels of the pictures it looks at."""
STRIDE = 4
"""Pixels that a cell of its maps stands for."""
CELLS = EDGE // STRIDE

TINT_CLASSES: tuple[str | None, ...] = (*TINTS, None)
"""What an object's colour can be; None is its natural look."""
BACKGROUND_CLASSES: tuple[str | None, ...] = (*COLOURS, None)
"""What a background can be; None is one that is not of one plain colour."""

START_SHARE = 0.01
"""Probability of an object's centre that every cell starts with, so that the many empty ones do not swamp the loss
(Lin et al. 2017, focal loss, section 4.1)."""
EPS = 1e-6


class DetectorConfig(BaseModel):
    """What the judge knows and how large its network is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: tuple[str, ...] = Field(min_length=2)
    """Names of the objects it finds, in the order of its maps."""
    widths: tuple[int, int, int] = (32, 64, 96)
    """Channels at stride 2, at stride 4, and at stride 4 where most of the work is done."""
    layers: int = Field(default=3, ge=1)
    """Residual blocks of the last width."""
    groups: int = Field(default=8, ge=1)

    @field_validator("objects")
    @classmethod
    def _differ(cls, objects: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(objects)) != len(objects):
            raise ValueError("an object is named twice")
        return objects


class Detector(nn.Module):
    """Pixels (b, 3, 64, 64) in [-1, 1] -> logits of centres, tints and the background.

    These are (b, objects, 16, 16), (b, 9, 16, 16) and (b, 13).

    Full resolution is left at once, by a stride-2 stem, because that is where convolutions cost most.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, wide = config.widths
        groups = config.groups
        self.stem = nn.Conv2d(3, fine, 5, stride=2, padding=2)
        self.fine = ResidualBlock(fine, fine, groups=groups, eps=EPS)
        self.down = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = ResidualBlock(middle, middle, groups=groups, eps=EPS)
        self.widen = nn.Conv2d(middle, wide, 1)
        self.blocks = nn.ModuleList(ResidualBlock(wide, wide, groups=groups, eps=EPS) for _ in range(config.layers))
        self.norm = nn.GroupNorm(groups, wide, eps=EPS)
        self.centres = nn.Conv2d(wide, len(config.objects), 3, padding=1)
        self.tints = nn.Conv2d(wide, len(TINT_CLASSES), 1)
        # From the unnormalised features: a norm over the whole picture takes away its mean, which is the background.
        self.background = nn.Sequential(
            nn.Linear(2 * middle, middle), nn.SiLU(), nn.Linear(middle, len(BACKGROUND_CLASSES))
        )
        assert self.centres.bias is not None
        nn.init.constant_(self.centres.bias, math.log(START_SHARE / (1 - START_SHARE)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        statistics, x = self._seen(pixels)
        return self.centres(x), self.tints(x), self.background(statistics)

    def features(self, pixels: Tensor) -> Tensor:
        """(b, 3, 64, 64) -> (b, 224): what the heads read, without where it is; for `frechet`."""
        statistics, x = self._seen(pixels)
        return torch.cat([statistics, x.float().mean(dim=(2, 3))], dim=1)

    def _seen(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What colours and contrast there are (b, 128), and what stands where (b, 96, 16, 16)."""
        x = self.fine(self.stem(pixels))  # (b, 32, 32, 32)
        x = self.middle(self.down(x))  # (b, 64, 16, 16)
        spread, mean = torch.var_mean(x.float(), dim=(2, 3))  # a plain background has little spread
        statistics = torch.cat([mean, (spread + EPS).sqrt()], dim=1)
        x = self.widen(x)  # (b, 96, 16, 16)
        for block in self.blocks:
            x = block(x)
        return statistics, F.silu(self.norm(x))
