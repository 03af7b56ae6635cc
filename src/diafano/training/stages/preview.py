"""A tiny decoder learns to give what a model's own decoder gives: `diafano train preview`, for a model that is there.

A preview shows clean estimates, blurred ones in the first steps. So half of the latents are those of pictures, and
half what the model's UNet makes of them at noise levels of chance, told their captions.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diafano.checkpoints.loading import load
from diafano.checkpoints.tiny_decoder import save_tiny_decoder
from diafano.errors import UserError
from diafano.networks.tiny_decoder import TinyDecoder
from diafano.pictures.pixels import grid, to_picture
from diafano.sampling.denoiser import Denoiser
from diafano.stable_diffusion import StableDiffusion
from diafano.training.examples import Examples, generator_of, indices_of
from diafano.training.losses import gradient_error
from diafano.training.recipe import PreviewRecipe, fitting_size

HELD_OUT, SHOWN, AT_ONCE = 64, 16, 32
FILE = "decoder.safetensors"


class PreviewStage:
    """Absolute, squared and gradient error from the real decoder's pixels."""

    def __init__(self, recipe: PreviewRecipe, device: torch.device) -> None:
        self.recipe = recipe
        model = load(recipe.model, device=device, dtype="float32")
        if recipe.data.size % model.size_step:
            raise UserError(fitting_size(recipe.data.size, model.size_step))
        torch.manual_seed(recipe.loop.seed)  # of the starting weights
        self.decoder = TinyDecoder(recipe.network).to(device)
        self.trained: nn.Module = self.decoder
        half = torch.autocast(device.type, torch.bfloat16, enabled=recipe.loop.precision == "bf16")
        held_out = Examples.read(recipe.data, count=HELD_OUT, held_out=True)
        self.held_out, self.held_out_pixels = pairs(model, held_out, recipe.loop.seed)
        with half:
            self.latents, self.pixels = pairs(model, Examples.read(recipe.data), recipe.loop.seed)

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loop = self.recipe.loop
        chosen = torch.from_numpy(indices_of(loop.seed, number, loop.batch, len(self.latents)))
        true = self.pixels[chosen].float()
        made = self.decoder(self.latents[chosen]).float()
        terms = {
            "absolute": F.l1_loss(made, true),
            "squared": F.mse_loss(made, true),
            "gradient_error": gradient_error(made, true),
        }
        return torch.stack(list(terms.values())).sum(), terms

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Held-out latents by the real decoder above, by the tiny one below; PSNR in dB, of pictures and estimates."""
        parts = [self.decoder.decode(part) for part in self.held_out.split(AT_ONCE)]
        made, true = torch.cat(parts).clamp(-1, 1), self.held_out_pixels.float()
        half = len(true) // 2
        figures = {
            name: 10 * math.log10(4 / F.mse_loss(made[part], true[part]).item())
            for name, part in (("psnr", slice(half)), ("psnr_of_estimates", slice(half, None)))
        }
        shown = [*range(SHOWN // 2), *range(half, half + SHOWN // 2)]
        return grid([to_picture(pixels[at]) for pixels in (true, made) for at in shown], SHOWN), figures

    def save(self, folder: Path) -> None:
        """In half precision, under TAESD's names."""
        save_tiny_decoder(self.decoder, folder / FILE)


@torch.no_grad()
def pairs(model: StableDiffusion, examples: Examples, seed: int) -> tuple[Tensor, Tensor]:
    """Latents (2 * count, 4, h, w) and the real decoder's pixels of them, float16: the pictures', then estimates."""
    latents, estimates = [], []
    denoiser = Denoiser(model.unet, model.schedule)
    for number, first in enumerate(range(0, len(examples), AT_ONCE)):
        places = np.arange(first, min(first + AT_ONCE, len(examples)))
        generator = generator_of(seed, number)
        latent = model.autoencoder.encode(examples.batch(places, model.device)).mean.float()
        noise = torch.randn(latent.shape, generator=generator).to(model.device)
        timestep = int(torch.randint(len(model.schedule), (1,), generator=generator))
        sigma = model.schedule.sigma_of(timestep)
        text = model.encode_text([examples.captions[place] for place in places])
        latents.append(latent)
        estimates.append(denoiser(latent + sigma * noise, sigma, text).float())
    whole = torch.cat([*latents, *estimates])
    pixels = [model.autoencoder.decode(part).float().clamp(-1, 1) for part in whole.split(AT_ONCE)]
    return whole, torch.cat(pixels).half()
