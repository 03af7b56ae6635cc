"""An upscaler learns to give pictures from what they are made small: `diafano train upscaler`.

    true      (b, 3, H, W)      a window of a large picture, in [0, 1]
    small     (b, 3, H/4, W/4)  it made small, mostly through the model's autoencoder, a little noise added
    made      (b, 3, H, W)      by the network; held against the true one

Real-ESRGAN (Wang et al. 2021) learns from such pairs, too, spoilt in many more ways; there is no discriminator here:
flat colours with crisp edges are what an absolute error leads to.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diafano.checkpoints.parts import read_part
from diafano.checkpoints.upscaler import save_upscaler
from diafano.checkpoints.upscaler_files import OWN
from diafano.families.folder_parts import AUTOENCODER
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.rrdb import SLOPE, RRDBNet
from diafano.pictures.pixels import grid, to_picture
from diafano.training.examples import Examples, generator_of, indices_of, open_source, to_pixels
from diafano.training.feed import Feed, Wanted
from diafano.training.handed_on import finished, part_folder
from diafano.training.losses import edge_ratio, gradient_error
from diafano.training.recipe import UpscalerRecipe

HELD_OUT, SHOWN = 16, 6
FILE = OWN.name
GAIN = 0.6
"""Of the starting weights: with 1, the first updates throw away what the network begins with."""


class UpscalerStage:
    """Absolute, squared and gradient error from the large pictures."""

    def __init__(self, recipe: UpscalerRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.autoencoder: Autoencoder | None = None
        if recipe.autoencoder is not None:
            folder = finished(recipe.autoencoder, "autoencoder", "autoencoder", "vae")
            self.autoencoder = read_part(part_folder(folder, "vae"), AUTOENCODER).filled(device)
            self.autoencoder.requires_grad_(False)
        torch.manual_seed(recipe.loop.seed)  # of the starting weights
        self.network = RRDBNet(recipe.network)
        begin_with_nearest_neighbours(self.network)
        self.trained: nn.Module = self.network.to(device)
        source, self.count = open_source(recipe.data)
        self.feed = Feed(source, self._wanted, recipe.data.processes)
        held_out = Examples.read(recipe.data, count=HELD_OUT, held_out=True)
        self.true = held_out.batch(np.arange(len(held_out)), device).add(1).div(2)
        generator = generator_of(recipe.loop.seed, 0)
        self.small = torch.cat([self.made_small(one, generator, share=1.0, noise=0.0) for one in self.true.split(1)])

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.recipe
        true = to_pixels(self.feed(number).pixels, self.device).add(1).div(2)
        small = self.made_small(true, generator_of(recipe.loop.seed, number))
        made = self.network(small).float()
        terms = {
            "absolute": F.l1_loss(made, true),
            "squared": F.mse_loss(made, true),
            "gradient_error": gradient_error(made, true),
        }
        weights = (recipe.loss.absolute, recipe.loss.squared, recipe.loss.gradient)
        return torch.stack([weight * term for weight, term in zip(weights, terms.values(), strict=True)]).sum(), terms

    @torch.no_grad()
    def made_small(
        self, true: Tensor, generator: torch.Generator, *, share: float | None = None, noise: float | None = None
    ) -> Tensor:
        """Large pictures (b, 3, h, w) in [0, 1] -> (b, 3, h / scale, w / scale): sharply or by means, by chance, the
        first `share` of them through the autoencoder, with some noise, at most `noise`; None: as the recipe says."""
        share = self.recipe.autoencoder_share if share is None else share
        most = self.recipe.noise if noise is None else noise
        size = [edge // self.network.scale for edge in true.shape[-2:]]
        mode = ("area", "bicubic")[int(torch.randint(2, (1,), generator=generator))]
        small = F.interpolate(true, size, mode=mode, antialias=mode == "bicubic").clamp(0, 1)
        through = math.ceil(share * len(small))
        if self.autoencoder is not None and through:
            latent = self.autoencoder.encode(small[:through] * 2 - 1).mean
            decoded = self.autoencoder.decode(latent).float().add(1).div(2).clamp(0, 1)
            small = torch.cat([decoded, small[through:]])
        strength = most * torch.rand((len(small), 1, 1, 1), generator=generator)
        return (small + (strength * torch.randn(small.shape, generator=generator)).to(small)).clamp(0, 1)

    def _wanted(self, number: int) -> Wanted:
        loop, crop = self.recipe.loop, self.recipe.crop
        return Wanted(indices_of(loop.seed, number, loop.batch, self.count), crop, (loop.seed, number))

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Small pictures as they are, by Lanczos, by the network, and the true ones; PSNR in dB and how sharp edges
        are, of the network's and of Lanczos'."""
        size = (self.true.shape[-1], self.true.shape[-2])
        made = torch.cat([self.network(part).float() for part in self.small.split(1)]).clamp(0, 1)
        small = [to_picture(one * 2 - 1) for one in self.small]
        lanczos = torch.stack([_pixels(one.resize(size, Image.Resampling.LANCZOS)) for one in small]).to(made)
        figures = {
            f"{name}{of}": value
            for of, pixels in (("", made), ("_lanczos", lanczos))
            for name, value in (
                ("psnr", 10 * math.log10(1 / F.mse_loss(pixels, self.true).item())),
                ("edges", edge_ratio(pixels, self.true)),
            )
        }
        nearest = torch.stack([_pixels(one.resize(size, Image.Resampling.NEAREST)) for one in small]).to(made)
        rows = (nearest, lanczos, made, self.true)
        return grid([to_picture(one * 2 - 1) for row in rows for one in row[:SHOWN]], min(SHOWN, len(made))), figures

    def save(self, folder: Path) -> None:
        """In half precision, under Real-ESRGAN's names, with the recipe's name."""
        save_upscaler(self.network, folder / FILE, self.recipe.name)


def begin_with_nearest_neighbours(network: RRDBNet) -> None:
    """Ends that pass colours on, blocks that hardly change them, and else weights that keep a map's size, nearly.

    The network then begins by giving each pixel as a square, not by noise.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            layer.weight.data.mul_(GAIN)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if name.endswith("conv5") or name == "conv_last":
                layer.weight.data.mul_(0.1)
    config = network.config
    if config.unshuffle > 1 or config.width < config.picture_channels:
        return
    through = ["conv_first", *(f"conv_up{number}" for number in range(1, config.doublings + 1)), "conv_hr", "conv_last"]
    network.conv_body.weight.data[: config.picture_channels] = 0
    for name in through:
        weight = network.get_parameter(f"{name}.weight").data
        for channel in range(config.picture_channels):
            weight[channel] = 0
            weight[channel, channel, 1, 1] = 1


def _pixels(picture: Image.Image) -> Tensor:
    """(3, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
