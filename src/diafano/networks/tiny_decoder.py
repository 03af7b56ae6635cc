"""Tiny decoder: latents -> pixels at a small share of the real decoder's work, for a look at what is being drawn.

It is the decoding half of TAESD (Ollin Boer Bohan 2023, github.com/madebyollin/taesd): no norms, no attention, one
width throughout, trained to give what the real decoder gives.

    tanh(latent / 3) * 3        what lies beyond is no latent
    -> conv, ReLU               (b, 4, h, w) -> (b, 64, h, w)
    -> 3 blocks, twice the size, conv; three times         (b, 64, 8h, 8w)
    -> block, conv -> 2x - 1    (b, 3, 8h, 8w), from [0, 1] to [-1, 1]

Attribute names are those of the decoder in diffusers' ``AutoencoderTiny``; `checkpoints.tiny_decoder` reads files.
"""

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

REACH = 3.0
"""Latents are bent towards this magnitude."""


class TinyDecoderConfig(BaseModel):
    """Shape of a tiny decoder; the defaults are TAESD's (1,222,531 parameters)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[int, ...] = Field(default=(3, 3, 3, 1), min_length=1)
    """Residual blocks at each level, the latent's first; each level but the first has twice the height and width."""
    width: int = Field(default=64, ge=1)
    latent_channels: int = 4
    picture_channels: int = 3
    latent_scale: float = 1.0
    """Latents of unit scale are divided by this; 1 for all of TAESD's, whatever the real autoencoder's scale."""

    @property
    def factor(self) -> int:
        """How many pixels of a picture's edge one latent position stands for."""
        return int(2 ** (len(self.blocks) - 1))


class TinyBlock(nn.Module):
    """Three convolutions beside the identity: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class TinyDecoder(nn.Module):
    """`decode`: latents of unit scale -> pixels, about what `Autoencoder.decode` gives."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), nn.ReLU()]
        for level, blocks in enumerate(config.blocks):
            layers += [TinyBlock(width) for _ in range(blocks)]
            if level < len(config.blocks) - 1:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, config.picture_channels, 3, padding=1))

    @property
    def factor(self) -> int:
        return self.config.factor

    def forward(self, latent: Tensor) -> Tensor:
        pixels: Tensor = self.layers((latent / REACH).tanh() * REACH)
        return 2 * pixels - 1

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (b, 4, h, w) of unit scale -> pixels (b, 3, factor * h, factor * w), about [-1, 1], not clamped.

        On the decoder's device, and in its number format inside; the pixels are float32.
        """
        weight = next(self.parameters())
        pixels: Tensor = self(latent.to(weight) / self.config.latent_scale)
        return pixels.float()
