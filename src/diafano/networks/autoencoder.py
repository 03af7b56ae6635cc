"""Image encoder and decoder: pictures <-> latents (Kingma & Welling 2013; Rombach et al. 2022, section 3.1).

Pixels are (batch, 3, height, width) in [-1, 1]. Latents are (batch, 4, height/factor, width/factor) of unit scale:
the stored `latent_scale` is applied on the way in and undone on the way out, so nobody else needs to know it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from diafano.networks.layers import Downsample, PictureAttention, ResidualBlock, Upsample, widths_in_turn

EPS = 1e-6  # of every group norm in the original's autoencoder


class AutoencoderConfig(BaseModel):
    """Shape of an autoencoder; the defaults are Stable Diffusion v1's (83,653,863 parameters)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels at each level, finest first; each level but the last halves height and width."""
    layers: int = 2
    """Residual blocks a level in the encoder (the decoder has one more)."""
    latent_channels: int = 4
    picture_channels: int = 3
    groups: int = 32
    latent_scale: float = 0.18215
    """Latents are multiplied by this so that their variance is about 1."""
    middle_attention: bool = True

    @property
    def factor(self) -> int:
        """How many pixels of a picture's edge one latent position stands for."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class LatentDistribution:
    """A normal distribution for each latent value; mean, logvar: (batch, 4, h, w), in unit scale."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, by mean + standard deviation * noise; the noise comes from the generator's device."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + (0.5 * self.logvar).exp() * noise.to(self.mean)


class MiddleBlock(nn.Module):
    """Two residual blocks with attention between: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, groups=config.groups, eps=EPS) for _ in range(2))
        self.attentions = nn.ModuleList(
            [PictureAttention(channels, groups=config.groups, eps=EPS)] if config.middle_attention else []
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        x = self.resnets[1](x)
        return x


class EncoderLevel(nn.Module):
    """Residual blocks, then half the height and width unless this level is the last."""

    def __init__(self, in_channels: int, out_channels: int, config: AutoencoderConfig, *, last: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, groups=config.groups, eps=EPS)
            for i in range(config.layers)
        )
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels, symmetric=False)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class DecoderLevel(nn.Module):
    """Residual blocks, then twice the height and width unless this level is the last."""

    def __init__(self, in_channels: int, out_channels: int, config: AutoencoderConfig, *, last: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, groups=config.groups, eps=EPS)
            for i in range(config.layers + 1)
        )
        self.upsamplers = nn.ModuleList([] if last else [Upsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Pixels (b, 3, H, W) -> moments (b, 2 * latent_channels, H/factor, W/factor): means, then log-variances."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.picture_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderLevel(before, after, config, last=level == len(widths) - 1)
            for level, (before, after) in enumerate(widths_in_turn(widths))
        )
        self.mid_block = MiddleBlock(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.conv_in(pixels)
        for level in self.down_blocks:
            x = level(x)
        x = self.mid_block(x)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x


class Decoder(nn.Module):
    """Latents as stored (b, latent_channels, h, w) -> pixels (b, 3, factor * h, factor * w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MiddleBlock(widths[0], config)
        self.up_blocks = nn.ModuleList(
            DecoderLevel(before, after, config, last=level == len(widths) - 1)
            for level, (before, after) in enumerate(widths_in_turn(widths))
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.picture_channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x: Tensor = self.conv_in(latent)
        x = self.mid_block(x)
        for level in self.up_blocks:
            x = level(x)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x


class Autoencoder(nn.Module):
    """The KL autoencoder: `encode` to a latent distribution, `decode` to pixels."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(moments, moments, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def factor(self) -> int:
        """Pixels of a picture's edge for one latent position: 8 in v1."""
        return self.config.factor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance as the network gives them, before `latent_scale`; training needs these for KL."""
        return self.split_moments(self.encoder(pixels))

    def split_moments(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output -> mean, log-variance."""
        mean, logvar = self.quant_conv(encoded).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor) -> LatentDistribution:
        """Pixels (b, 3, H, W) in [-1, 1] -> distribution of latents (b, 4, H/factor, W/factor) of unit scale."""
        return self.distribution(*self.moments(pixels))

    def distribution(self, mean: Tensor, logvar: Tensor) -> LatentDistribution:
        """What `moments` gave, in unit scale."""
        scale = self.config.latent_scale
        return LatentDistribution(mean * scale, logvar + 2 * math.log(scale))

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (b, 4, h, w) of unit scale -> pixels (b, 3, factor * h, factor * w), about [-1, 1], not clamped."""
        pixels: Tensor = self.decoder(self.post_quant_conv(latent / self.config.latent_scale))
        return pixels
