"""ControlNet: a picture says where things are (Zhang et al. 2023, arXiv 2302.05543).

    picture -> hint encoder -> + first map of the latent          controlnet_cond_embedding
    -> a copy of the UNet's way down and of its middle            down_blocks, mid_block
    -> one "zero convolution" for each map                        controlnet_down_blocks, controlnet_mid_block
    -> residuals, which the UNet adds to its skip connections and its middle

The UNet itself stays as it is: `Controlled` gives it the residuals of any number of such networks. The blocks are the
UNet's; attribute names are those of diffusers' ``ControlNetModel``.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning, Told
from diafano.networks.layers import TimestepEmbedding, sinusoidal_embedding, widths_in_turn, zeroed
from diafano.networks.unet import DownLevel, MiddleLevel, Residuals, UNet, UNetConfig

HINT_WIDTHS = (16, 32, 96, 256)
"""Of v1.1's hint encoder; each but the first halves height and width, 8 times in all like the autoencoder."""


class HintEncoder(nn.Module):
    """Pixels in [0, 1] (b, 3, H, W) -> a map like the UNet's first (b, width, H/8, W/8)."""

    def __init__(self, width: int, widths: Sequence[int] = HINT_WIDTHS) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for before, after in pairwise(widths):
            self.blocks.append(nn.Conv2d(before, before, 3, padding=1))
            self.blocks.append(nn.Conv2d(before, after, 3, padding=1, stride=2))
        self.conv_out = zeroed(nn.Conv2d(widths[-1], width, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = F.silu(self.conv_in(pixels))
        for block in self.blocks:
            x = F.silu(block(x))
        x = self.conv_out(x)
        return x


class ControlNet(nn.Module):
    """latent (b, 4, h, w), timestep (b,), tokens (b, n, text_width), hint -> residuals for a UNet of that shape."""

    def __init__(
        self, config: UNetConfig, hint_widths: Sequence[int] = HINT_WIDTHS, *, name: str = "", hash: str = ""
    ) -> None:
        """`name` and `hash` are what a picture records of it."""
        super().__init__()
        self.config = config
        self.name, self.hash = name, hash
        widths = config.widths
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width)
        self.controlnet_cond_embedding = HintEncoder(widths[0], hint_widths)
        self.down_blocks = nn.ModuleList(
            DownLevel(config, level, before, after) for level, (before, after) in enumerate(widths_in_turn(widths))
        )
        self.mid_block = MiddleLevel(config)
        self.controlnet_down_blocks = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in config.skip_widths)
        self.controlnet_mid_block = zeroed(nn.Conv2d(widths[-1], widths[-1], 1))

    @classmethod
    def copied_from(cls, unet: UNet, hint_widths: Sequence[int] = HINT_WIDTHS) -> "ControlNet":
        """As training begins: the UNet's own way down, and zeros where something would reach the UNet."""
        network = cls(unet.config, hint_widths).to(unet.conv_in.weight)
        own = network.state_dict()
        network.load_state_dict(own | {name: tensor for name, tensor in unet.state_dict().items() if name in own})
        return network

    @property
    def factor(self) -> int:
        """Pixels of the picture's edge for one latent position."""
        return int(2 ** (len(self.controlnet_cond_embedding.blocks) // 2))

    def hint(self, pixels: Tensor) -> Tensor:
        """What `forward` takes of a picture, (b, 3, H, W) in [0, 1]: the same in every step."""
        hint: Tensor = self.controlnet_cond_embedding(pixels)
        return hint

    def forward(self, latent: Tensor, timestep: Tensor, conditioning: Told, hint: Tensor) -> Residuals:
        text = Conditioning.of(conditioning).tokens
        time = self.time_embedding(sinusoidal_embedding(timestep, self.config.widths[0]).to(latent.dtype))
        x: Tensor = self.conv_in(latent) + hint
        maps = [x]
        for down in self.down_blocks:
            x, made = down(x, time, text)
            maps += made
        x = self.mid_block(x, time, text)
        skips = [zero(one) for zero, one in zip(self.controlnet_down_blocks, maps, strict=True)]
        return Residuals(skips, self.controlnet_mid_block(x))


def check_control(network: ControlNet, unet: UNet) -> None:
    """Raises UserError for a network of another shape than the UNet."""
    theirs, ours = network.config, unet.config
    alike = theirs.model_copy(update={"in_channels": ours.in_channels, "out_channels": ours.out_channels})
    if alike != ours or theirs.in_channels != ours.out_channels:
        raise UserError(
            f"the ControlNet {network.name or 'given'} was made for another kind of model: take one for text of width"
            f" {ours.text_width} and maps of {' '.join(map(str, ours.widths))} channels"
        )
