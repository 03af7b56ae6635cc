"""First stage: the autoencoder learns to give back the picture from its latent."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diafano.checkpoints.parts import read_part, write_part
from diafano.errors import UserError
from diafano.families.family import WriteContext
from diafano.families.folder_parts import AUTOENCODER
from diafano.networks.autoencoder import Autoencoder
from diafano.pictures.pixels import grid, to_picture
from diafano.training.examples import Examples, generator_of, indices_of, open_source, to_pixels
from diafano.training.feed import Feed, Wanted
from diafano.training.handed_on import part_folder
from diafano.training.initialise import silence_residual_branches
from diafano.training.losses import divergence, edge_ratio, gradient_error, hinge_discriminator, texture_error
from diafano.training.recipe import AutoencoderRecipe

START_LOGVAR = -6.0
"""The latents' log-variance before training: at 0 their noise would drown the mean, and nothing would be learnt."""
HELD_OUT = 64
WHOLE_EVERY = 4
"""Each so many batches one is of whole pictures: group norm sees other statistics in them than in windows."""


class PatchDiscriminator(nn.Sequential):
    """Is a patch true or made? Pixels (b, 3, h, w) -> scores (b, 1, h/4, w/4) (Isola et al. 2017)."""

    def __init__(self, channels: int, width: int = 48) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )


class AutoencoderStage:
    """Reconstruction (absolute, squared, gradient) + divergence, and a patch discriminator if the recipe wants one."""

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device) -> None:
        torch.manual_seed(recipe.loop.seed)  # of the starting weights
        self.recipe, self.device = recipe, device
        self.autoencoder = self._starting_autoencoder()
        self.discriminator = PatchDiscriminator(recipe.network.picture_channels) if recipe.loss.adversarial else None
        parts: dict[str, nn.Module] = {"autoencoder": self.autoencoder}
        if self.discriminator is not None:
            parts["discriminator"] = self.discriminator
        self.trained: nn.Module = nn.ModuleDict(parts).to(device)
        source, self.count = open_source(recipe.data)
        self.feed = Feed(source, self._wanted, recipe.data.processes)
        self.held_out = Examples.read(recipe.data, count=HELD_OUT, held_out=True)

    def _starting_autoencoder(self) -> Autoencoder:
        recipe = self.recipe
        if recipe.start is not None:
            autoencoder = read_part(part_folder(recipe.start, "vae"), AUTOENCODER).filled()
            if autoencoder.config.model_copy(update={"latent_scale": recipe.network.latent_scale}) != recipe.network:
                raise UserError(
                    f"The autoencoder in {recipe.start} has another shape than the recipe's network: adapt it."
                )
            return autoencoder.train()
        autoencoder = Autoencoder(recipe.network)
        silence_residual_branches(autoencoder)
        with torch.no_grad():
            bias = autoencoder.quant_conv.bias
            assert bias is not None
            bias[recipe.network.latent_channels :] = START_LOGVAR
        return autoencoder

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.recipe
        pixels = to_pixels(self.feed(number).pixels, self.device)
        generator = generator_of(recipe.loop.seed, number)
        mean, logvar = self.autoencoder.moments(pixels)
        mean, logvar = mean.float(), logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(self.device)
        made = self.autoencoder.decode(
            (mean + (0.5 * logvar).exp() * noise) * self.autoencoder.config.latent_scale
        ).float()
        terms = {
            "absolute": F.l1_loss(made, pixels),
            "squared": F.mse_loss(made, pixels),
            "gradient_error": gradient_error(made, pixels),
            "divergence": divergence(mean, logvar),
        }
        if recipe.loss.texture:
            terms["texture"] = texture_error(made, pixels)
        weights = recipe.loss
        rise = weights.divergence_full - weights.divergence_from
        share = min(1.0, max(0.0, (step - weights.divergence_from) / max(1, rise)))
        total = (
            weights.absolute * terms["absolute"]
            + weights.squared * terms["squared"]
            + weights.gradient * terms["gradient_error"]
            + share * weights.divergence * terms["divergence"]
        )
        if weights.texture:
            total = total + weights.texture * terms["texture"]
        if self.discriminator is not None and step >= weights.adversarial_from:
            total = total + self._adversarial(self.discriminator, pixels, made, terms)
        return total, terms

    def _wanted(self, number: int) -> Wanted:
        """The batch of that number: windows of pictures, or every so often as many pixels in whole pictures."""
        loop, crop, size = self.recipe.loop, self.recipe.crop, self.recipe.data.size
        if crop is None or number % WHOLE_EVERY == 0:
            count = loop.batch if crop is None else max(1, loop.batch * crop**2 // size**2)
            return Wanted(indices_of(loop.seed, number, count, self.count))
        return Wanted(indices_of(loop.seed, number, loop.batch, self.count), crop, (loop.seed, number))

    def _adversarial(
        self, discriminator: PatchDiscriminator, pixels: Tensor, made: Tensor, terms: dict[str, Tensor]
    ) -> Tensor:
        """Both sides of the game in one sum: each side's term sees the other side detached, so one optimiser serves."""
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        fooling = -torch.func.functional_call(discriminator, frozen, (made,)).float().mean()
        telling = hinge_discriminator(discriminator(pixels).float(), discriminator(made.detach()).float())
        terms["fooling"], terms["telling"] = fooling, telling
        both: Tensor = self.recipe.loss.adversarial * fooling + telling
        return both

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Held-out pictures above what the autoencoder makes of them; PSNR in dB, and how sharp edges stay."""
        pixels = self.held_out.batch(np.arange(len(self.held_out)), self.device)
        made = self._rebuilt(pixels).clamp(-1, 1)
        figures = {"psnr": 10 * math.log10(4 / F.mse_loss(made, pixels).item()), "edges": edge_ratio(made, pixels)}
        shown = [to_picture(one) for one in (*pixels[:16], *made[:16])]
        return grid(shown, 16), figures

    def _rebuilt(self, pixels: Tensor) -> Tensor:
        made = [self.autoencoder.decode(self.autoencoder.encode(part).mean) for part in torch.split(pixels, 16)]
        return torch.cat(made).float()

    def save(self, folder: Path) -> None:
        """`vae/` as diffusers has it, with the latent scale that gives latents of unit variance."""
        with torch.no_grad():
            pixels = Examples.read(self.recipe.data, count=1024).batch(np.arange(min(1024, self.count)), self.device)
            latents = torch.cat([self.autoencoder.moments(part)[0] for part in torch.split(pixels, 32)])
        scale = round(1.0 / latents.float().std().item(), 5)
        size = self.recipe.data.size
        config = self.autoencoder.config.model_copy(update={"latent_scale": scale})
        write_part(self.autoencoder, folder / "vae", AUTOENCODER, WriteContext((size, size)), config=config)
