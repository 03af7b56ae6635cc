"""Third stage: the UNet learns to predict the noise (or v) in a noisy latent, given the caption."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.parts import read_part
from diafano.engine.tiles import decode
from diafano.errors import UserError, note
from diafano.families.folder_parts import AUTOENCODER, TEXT_ENCODERS, UNET
from diafano.networks.conditioning import Conditioning
from diafano.networks.layers import zeroed
from diafano.networks.unet import UNet
from diafano.noise.schedule import NoiseSchedule
from diafano.pictures.pixels import grid, to_picture
from diafano.request.programs.grids import diafano_grid
from diafano.sampling.noise import SeededNoise
from diafano.sampling.prompts import StepPrompts
from diafano.sampling.run import RunPlan, run
from diafano.sampling.samplers.table import find_sampler
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.spelling import cut_captions_note
from diafano.text_encoder.tokenizer import Tokenizer
from diafano.training.data.emoji.languages import GRAMMARS
from diafano.training.data.emoji.scene_sampler import TRAINING_MIX
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.examples import generator_of, indices_of, open_source
from diafano.training.exchanged import exchanges
from diafano.training.handed_on import finished, part_folder
from diafano.training.initialise import silence_residual_branches
from diafano.training.latents import Latents, fingerprint, kept
from diafano.training.losses import min_snr_weight
from diafano.training.recipe import UNetRecipe, fitting_size

PREVIEWS = 16
PREVIEW_STEPS = 25
HELD_OUT = 128


class UNetStage:
    """Squared error of the prediction at a timestep of chance, min-SNR weighted; captions dropped now and then."""

    def __init__(self, recipe: UNetRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        folder = finished(recipe.autoencoder, "autoencoder", "autoencoder", "vae")
        texts = finished(recipe.text, "text", "text", "text_encoder")
        self.autoencoder = read_part(part_folder(folder, "vae"), AUTOENCODER).filled(device)
        step = self.autoencoder.config.factor * 2 ** (len(recipe.network.widths) - 1)
        if recipe.data.size % step:
            raise UserError(fitting_size(recipe.data.size, step))
        self.tokenizer = Tokenizer.from_folder(texts / "tokenizer")
        text = read_part(texts / "text_encoder", *TEXT_ENCODERS, tokenizer=self.tokenizer)
        self.text_encoder = text.filled(device)
        self.schedule = NoiseSchedule(recipe.schedule)
        torch.manual_seed(recipe.loop.seed)  # of the starting weights
        self.unet = self._starting_unet()
        parts: dict[str, nn.Module] = {"unet": self.unet}
        if recipe.train_text:
            parts["text_encoder"] = self.text_encoder
        else:
            self.text_encoder.eval()
        self.trained: nn.Module = nn.ModuleDict(parts).to(device)

        self.source, self.count = open_source(recipe.data)
        captions = [self.source.caption(index) for index in range(self.count)]
        if (cut := cut_captions_note(self.tokenizer, captions, self.tokenizer(captions))) is not None:
            note(cut)
        held_out, held_out_count = open_source(recipe.data, held_out=True)
        held_out_count = min(HELD_OUT, held_out_count)
        self.empty = self.tokenizer([""])
        self.held_out_captions = [held_out.caption(index) for index in range(held_out_count)]
        self.held_out_ids = self.tokenizer(self.held_out_captions)
        cache = Latents(self.autoencoder, recipe.data, recipe.output / "cache", device)
        self.latents = cache.of(self.source, self.count)
        self.held_out_latents = cache.of(held_out, held_out_count)
        # One row a caption and a last one for the empty caption.
        self.texts = None if recipe.train_text else self._cached_texts(recipe.output / "cache")

    def _starting_unet(self) -> UNet:
        if self.recipe.start is not None:
            unet = read_part(part_folder(self.recipe.start, "unet"), UNET).filled()
            if unet.config != self.recipe.network:
                raise UserError(
                    f"The UNet in {self.recipe.start} has another shape than the recipe's network: adapt it."
                )
            return unet.train()
        unet = UNet(self.recipe.network)
        silence_residual_branches(unet)
        zeroed(unet.conv_out)
        return unet

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.recipe
        indices = indices_of(recipe.loop.seed, number, recipe.loop.batch, len(self.latents))
        generator = generator_of(recipe.loop.seed, number)
        dropped = torch.rand(len(indices), generator=generator) < recipe.caption_dropout
        latents = self.latents[torch.from_numpy(indices)].to(self.device, torch.float32)
        return self._error(latents, self._text(indices, dropped, number), generator), {}

    def _error(self, latents: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
        """Weighted squared error on `latents` (b, 4, h, w), with timesteps and noise from the generator."""
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        chance = torch.rand(len(latents), generator=generator, dtype=torch.float64)
        timestep = (len(self.schedule) * chance**self.recipe.timestep_power).long().to(self.device)
        noisy = self.schedule.add_noise(latents, noise, timestep)
        target = self.schedule.target(latents, noise, timestep)
        prediction = self.unet(noisy, timestep, text).float()
        squared = (prediction - target).square().mean(dim=(1, 2, 3))
        snr = self.schedule.signal_to_noise(timestep)
        weight = min_snr_weight(snr, self.recipe.min_snr, self.schedule.config.prediction)
        error: Tensor = (weight * squared).mean()
        return error

    def _text(self, indices: NDArray[np.int64], dropped: Tensor, number: int) -> Tensor:
        """Embeddings (b, tokens, width) of captions of `indices`, the empty caption's where `dropped`.

        While the text encoder is trained, every time that an example comes up it has another wording.
        """
        if self.texts is not None:
            rows = torch.where(dropped, self.count, torch.from_numpy(indices))
            return self.texts[rows].to(self.device, torch.float32)
        wording = number * self.recipe.loop.batch // self.count
        ids = self.tokenizer([self.source.caption(int(index), wording) for index in indices])
        embedded: Tensor = self.text_encoder(torch.where(dropped[:, None], self.empty, ids).to(self.device))
        return embedded

    @torch.no_grad()
    def _cached_texts(self, cache: Path) -> Tensor:
        ids = torch.cat([self.tokenizer([self.source.caption(index) for index in range(self.count)]), self.empty])
        path = cache / f"texts-{fingerprint(self.text_encoder, ids.numpy())}.safetensors"
        return kept(
            "texts",
            path,
            lambda: torch.cat([self.text_encoder(part.to(self.device)).half().cpu() for part in torch.split(ids, 64)]),
        )

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Pictures of held-out captions, always from the same noise, and the loss on held-out latents.

        Of emoji scenes also how the prediction changes where most is decided when a caption's names are exchanged, and
        how much worse it becomes (`exchanged`).
        """
        self.unet.eval()
        pictures = self.drawn(min(PREVIEWS, len(self.held_out_captions)))
        generator = generator_of(self.recipe.loop.seed, 0)
        losses = [
            self._error(latents.to(self.device, torch.float32), self.text_encoder(ids.to(self.device)), generator)
            for latents, ids in zip(
                torch.split(self.held_out_latents, 64), torch.split(self.held_out_ids, 64), strict=True
            )
        ]
        return grid(pictures, 8), {"loss": float(torch.stack(losses).mean()), **self._exchanged()}

    def _exchanged(self) -> dict[str, float]:
        data = self.recipe.data
        if data.kind != "emoji" or data.objects is None or "related" not in (data.mix or TRAINING_MIX):
            return {}
        found = exchanges(self.model(), Sprites.shipped(), GRAMMARS[data.languages[0]](), data.objects)
        return {"exchange_change": found[1].change, "exchange_error": found[1].error_ratio}

    @torch.inference_mode()
    def drawn(self, count: int) -> list[Image.Image]:
        """Pictures of the first held-out captions, all in one batch, with the sampler and the guidance of the card."""
        card = self.recipe.card
        sampler = find_sampler(card.sampler)
        sigmas = diafano_grid(sampler, card.schedule, self.schedule, PREVIEW_STEPS)
        plan = RunPlan(sigmas, sampler.function, [card.guidance] * PREVIEW_STEPS)
        texts = self.text_encoder(torch.cat([self.held_out_ids[:count], self.empty]).to(self.device))
        prompts = [StepPrompts(((Conditioning(texts[:-1]), 1.0),), Conditioning(texts[-1:]))] * PREVIEW_STEPS
        noise = SeededNoise(seed=0, batch=count).source(range(count), self.held_out_latents.shape[1:], self.device)
        latents = run(self.unet, self.schedule, plan, prompts, noise)
        return [to_picture(pixels) for pixels in decode(self.autoencoder, latents)]

    def model(self) -> StableDiffusion:
        """All parts as they are now."""
        return StableDiffusion(
            self.tokenizer, self.text_encoder, self.unet, self.autoencoder, self.schedule, self.recipe.told_card
        )

    def save(self, folder: Path) -> None:
        """`model/`: the whole model as a diffusers folder."""
        save_folder(self.model(), folder / "model")
