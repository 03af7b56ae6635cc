"""The UNet: a noisy latent, a timestep and the text's embeddings -> the noise in it (or v, or the clean latent).

Ronneberger et al. 2015; Ho et al. 2020; with cross-attention to the text, Rombach et al. 2022, section 3.3. The
configuration decides widths and depth; the defaults are Stable Diffusion v1's (859,520,964 parameters).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from diafano.networks.conditioning import Conditioning, Told
from diafano.networks.layers import (
    Downsample,
    Join,
    ResidualBlock,
    SpatialTransformer,
    TimestepEmbedding,
    Upsample,
    sinusoidal_embedding,
    widths_in_turn,
)

EPS = 1e-5  # of the group norms in residual blocks; those before attention have 1e-6


class UNetConfig(BaseModel):
    """Shape of a UNet. Tuples have one entry a level, finest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = 4
    """4 of the latent; inpainting models add 1 of the mask and 4 of the masked picture's latent."""
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    """Residual blocks a level on the way down (one more on the way up)."""
    attention: tuple[bool, ...] = (True, True, True, False)
    """Which levels have spatial transformers; the middle always has one."""
    heads: tuple[int, ...] = (8, 8, 8, 8)
    """Number of attention heads at each level (what diffusers calls `attention_head_dim`)."""
    text_width: int = 768
    groups: int = 32
    linear_projection: bool = False

    @model_validator(mode="after")
    def _levels_agree(self) -> "UNetConfig":
        if not len(self.widths) == len(self.attention) == len(self.heads):
            raise ValueError(
                f"widths {self.widths}, attention {self.attention} and heads {self.heads} must be of one length"
            )
        return self

    @property
    def time_width(self) -> int:
        return 4 * self.widths[0]

    @property
    def skip_widths(self) -> list[int]:
        """Channels of the maps that the way up is handed, the first and finest first."""
        found = [self.widths[0]]
        for level, width in enumerate(self.widths):
            found += [width] * (self.layers + (level < len(self.widths) - 1))
        return found

    def residual(self, in_channels: int, out_channels: int) -> ResidualBlock:
        return ResidualBlock(in_channels, out_channels, groups=self.groups, eps=EPS, time_width=self.time_width)

    def transformer(self, level: int) -> SpatialTransformer:
        return SpatialTransformer(
            self.widths[level],
            self.heads[level],
            self.text_width,
            groups=self.groups,
            linear_projection=self.linear_projection,
        )


class DownLevel(nn.Module):
    """Residual blocks (with transformers where the level attends), then half the height and width, but for the last."""

    def __init__(self, config: UNetConfig, level: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        attends, last = config.attention[level], level == len(config.widths) - 1
        self.resnets = nn.ModuleList(
            config.residual(in_channels if i == 0 else out_channels, out_channels) for i in range(config.layers)
        )
        self.attentions = nn.ModuleList(config.transformer(level) for _ in range(config.layers if attends else 0))
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels, symmetric=True)])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the map that leaves the level and every map that a skip connection will hand to the way up."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, text)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MiddleLevel(nn.Module):
    """Residual block, transformer, residual block at the coarsest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.resnets = nn.ModuleList(config.residual(width, width) for _ in range(2))
        self.attentions = nn.ModuleList([config.transformer(len(config.widths) - 1)])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        x = self.resnets[0](x, time)
        x = self.attentions[0](x, text)
        x = self.resnets[1](x, time)
        return x


class UpLevel(nn.Module):
    """Residual blocks on the map and its skip connections, then twice the height and width, but for the finest."""

    def __init__(self, config: UNetConfig, level: int, in_channels: int, skip_channels: list[int]) -> None:
        super().__init__()
        width = config.widths[level]
        self.join = Join()
        self.resnets = nn.ModuleList(
            config.residual((in_channels if i == 0 else width) + skip, width) for i, skip in enumerate(skip_channels)
        )
        self.attentions = nn.ModuleList(
            config.transformer(level) for _ in range(len(skip_channels) if config.attention[level] else 0)
        )
        self.upsamplers = nn.ModuleList([Upsample(width)] if level > 0 else [])

    def forward(self, x: Tensor, time: Tensor, text: Tensor, skips: list[Tensor]) -> Tensor:
        """Takes its skip connections off the end of `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(self.join(x, skips.pop()), time)
            if self.attentions:
                x = self.attentions[i](x, text)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[-2:])
        return x


@dataclass(frozen=True)
class Residuals:
    """What is added to the maps of a UNet's way down before its way up takes them."""

    skips: list[Tensor]
    """One for each skip connection, `UNetConfig.skip_widths` channels each."""
    middle: Tensor

    def scaled(self, factor: float) -> "Residuals":
        return Residuals([factor * skip for skip in self.skips], factor * self.middle)

    def plus(self, other: "Residuals") -> "Residuals":
        skips = [one + two for one, two in zip(self.skips, other.skips, strict=True)]
        return Residuals(skips, self.middle + other.middle)


class UNet(nn.Module):
    """latent (b, 4, h, w), timestep (b,), tokens of the text (b, n, text_width) -> (b, 4, h, w), for any h and w.

    Each level's map has half the height and width of the one above, rounded up; on the way up it is brought to the
    size of its skip connections again (as in diffusers and ComfyUI).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.widths, config.layers
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width)

        self.down_blocks = nn.ModuleList(
            DownLevel(config, level, before, after) for level, (before, after) in enumerate(widths_in_turn(widths))
        )
        self.mid_block = MiddleLevel(config)

        self.up_blocks = nn.ModuleList()
        entering, skip_channels = widths[-1], config.skip_widths
        for level in reversed(range(len(widths))):
            taken = [skip_channels.pop() for _ in range(layers + 1)]
            self.up_blocks.append(UpLevel(config, level, entering, taken))
            entering = widths[level]

        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self, latent: Tensor, timestep: Tensor, conditioning: Told, residuals: Residuals | None = None
    ) -> Tensor:
        """`conditioning` may be the text's tokens alone, as a tensor. `residuals` are added to what the way down hands
        on, see `networks.controlnet`.
        """
        text = Conditioning.of(conditioning).tokens
        time = self.time_embedding(sinusoidal_embedding(timestep, self.config.widths[0]).to(latent.dtype))
        x: Tensor = self.conv_in(latent)
        skips = [x]
        for down in self.down_blocks:
            x, made = down(x, time, text)
            skips += made
        x = self.mid_block(x, time, text)
        if residuals is not None:
            skips = [skip + residual for skip, residual in zip(skips, residuals.skips, strict=True)]
            x = x + residuals.middle
        for up in self.up_blocks:
            x = up(x, time, text, skips)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x
