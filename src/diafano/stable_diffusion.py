"""Putting it together: a request becomes pictures.

    prompt -> tokens (2, 77) -> text (2, 77, 768)         tokenizer, text encoder; negative first, then the prompt
    seed   -> noise (batch, 4, h/8, w/8)                  one generator a picture
    noise  -> latent, step by step along falling sigmas   UNet inside denoiser, guidance, sampler
    latent -> pixels (batch, 3, h, w) -> pictures         decoder

The shapes are Stable Diffusion v1's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor, nn

from diafano.engine.exclusive import exclusive
from diafano.engine.precision import NanGuard, run_with_nan_guard
from diafano.families.family import Family, TextEncoder, TextPart
from diafano.families.model import Model
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.conditioning import Conditioning
from diafano.networks.lora import merged
from diafano.networks.tileable import tileable
from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSource
from diafano.pictures.files import GivenPicture, opened
from diafano.pictures.metadata import with_parameters
from diafano.pictures.pixels import to_picture
from diafano.request.addons import Addons, Loras
from diafano.request.card import ModelCard
from diafano.request.controls import controls_as_infotext
from diafano.request.defaults import check_no_picture_is_needed, complete, image_to_image_settings, nearest_size
from diafano.request.plan import Pass, Plan, plan_of
from diafano.request.programs.table import find_program
from diafano.request.recorded import to_infotext
from diafano.request.request import Request, Settings
from diafano.sampling.control import Control
from diafano.sampling.hires import enlarged
from diafano.sampling.init_image import InitImage, init_image
from diafano.sampling.prompts import StepPrompts
from diafano.sampling.run import NOBODY, OnStep, Surroundings, Watchers, run
from diafano.text_encoder.prompt_embedding import words_used
from diafano.text_encoder.tokenizer import Tokenizer

__all__ = ["ModelCard", "OnStep", "Request", "StableDiffusion"]


class StableDiffusion(Model):
    """All parts of one model, each usable alone, and `generate`, which puts them together."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder,
        unet: nn.Module,
        autoencoder: Autoencoder,
        schedule: Process,
        card: ModelCard,
        addons: Addons | None = None,
        *,
        family: Family | None = None,
        further_texts: Mapping[str, TextPart] | None = None,
    ) -> None:
        """The parts are `families.model.Model`'s. Raises UserError where they do not fit each other."""
        super().__init__(
            tokenizer, text_encoder, unet, autoencoder, schedule, family=family, further_texts=further_texts
        )
        self.card = card
        self.addons = Addons() if addons is None else addons

    def with_autoencoder(self, autoencoder: Autoencoder, name: str, hash: str) -> "StableDiffusion":
        """The same model with another autoencoder, which its pictures record by that name and hash.

        All other parts are shared. See `checkpoints.vae.with_autoencoder` for one in a file.
        """
        addons = replace(self.addons, autoencoder=(name, hash))
        return StableDiffusion(**{**vars(self), "autoencoder": autoencoder, "addons": addons})

    def generate(
        self,
        prompt: str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        controls: Sequence[Control] = (),
        on_step: OnStep | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """`count` pictures that show the prompt; what is left out is as the model's card says, the seed by chance.

        `Settings` has all names. `size` is (width, height), `clip_skip` 1 the text encoder's last layer. `like` is
        "diffusers", "a1111" or "comfyui": the program that draws the same picture of the same settings (see
        `request.programs`). The prompt may have A1111's syntax (see `text_encoder.a1111_syntax`) and any length.

        An `image` (a PIL image, or the path of its file) is drawn over, from `strength` 0 (it stays) to 1 (nothing of
        it stays; 0.75 if left out), at its own size or the nearest; with a `mask` only where that is white, with
        `outpaint` beyond its sides. See docs/from_a_picture.md. `controls` are pictures that it is to follow, see
        `sampling.control.Control`.

        Each picture has its settings in ``info["parameters"]`` and keeps them when saved.
        See `draw` for `on_step`. Raises UserError, one sentence, for what cannot be done; what there is to tell beside
        the pictures, `diafano.collect_notes` gathers.
        """
        request, start = self.prepare(prompt, image=image, mask=mask, **settings)
        return self.draw(request, on_step, start, controls)

    def prepare(
        self,
        prompt: str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        **settings: Unpack[Settings],
    ) -> tuple[Request, InitImage | None]:
        """What `draw` takes: the checked request and, where there is an `image` to draw over, its latent."""
        image = None if image is None else opened(image)
        mask = None if mask is None else opened(mask, "the mask", mask=True)
        if image is None:
            check_no_picture_is_needed(settings, mask)
            return self.request(prompt, **settings), None
        over = image_to_image_settings(settings, image, mask, self.nearest_size, self.card.size)
        request = self.request(prompt, **over)
        return request, init_image(
            self.autoencoder,
            image,
            request.size,
            mask=mask,
            inverted=request.invert_mask,
            outpaint=request.outpaint,
            blur=request.mask_blur,
            content=request.masked_content,
            padding=request.mask_padding if request.only_masked else None,
            tiles=request.tiles,
            axes=request.tileable,
        )

    def request(self, prompt: str, **settings: Unpack[Settings]) -> Request:
        """The checked request for `draw`: settings that are None or left out come from the model's card."""
        return self.addons.with_upscaler(complete(prompt, settings, self.card, self.size_step))

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a picture that can be drawn, nearest to `size` and of about its shape."""
        return nearest_size(size, self.size_step)

    def plan(self, request: Request) -> Plan:
        """What `draw` does of a request: its passes, each with its noise levels, and the batches."""
        return plan_of(request, self.schedule, self.size_step)

    @torch.inference_mode()
    def draw(
        self,
        request: Request,
        on_step: OnStep | None = None,
        start: InitImage | None = None,
        controls: Sequence[Control] = (),
        watchers: Watchers = NOBODY,
    ) -> list[Image.Image]:
        """The request's pictures, drawn over `start` if there is one and after the pictures of the `controls`.

        `on_step` is called once for each step of each of the plan's batches, steps from 0 on, through all passes;
        `watchers` see more. What they raise ends the drawing and leaves the model as it was. Where a run gave NaN on a
        GPU, its steps come again. One drawing a model at a time: other threads wait, also with models that share a
        part, see `engine.exclusive`.
        """
        plan = self.plan(request)
        request = self.addons.with_upscaler(request)
        loras = self.addons.loras_of(request.prompt)
        recorded = self.recorded(request, controls, loras)
        pictures: list[Image.Image] = []
        networks = (self.unet, self.text_encoder, self.autoencoder, *(control.network for control in controls))
        with exclusive(*networks), merged(self.unet, self.text_encoder, loras), tileable(request.tileable):
            texts = [self.prompts_of(plan, one) for one in plan.passes]  # Text encoder
            for places in plan.batches:
                latent, over, done = torch.empty(0), start, 0  # Input, or none
                for one, said in zip(plan.passes, texts, strict=True):
                    if done > 0:
                        upscaler = self.addons.find_upscaler(request.hires_upscaler)
                        over = enlarged(latent, one.size, self.autoencoder, upscaler=upscaler, tiles=request.tiles)
                    watching = watchers.and_on_step(on_step, done)
                    noise = partial(self.noise, one, places)  # Additive noise
                    denoise = partial(self.denoise, one, said, start=over, controls=controls, watchers=watching)
                    latent = run_with_nan_guard(denoise, noise, self.device)  # UNet, guidance, sampler
                    done += one.run.steps
                for place, pixels in zip(places, self.decode(latent, request.tiles), strict=True):  # Decoder
                    drawn = to_picture(pixels) if start is None else start.pasted(to_picture(pixels))
                    if request.is_enlarged and request.upscaler is not None:
                        drawn = self.addons.find_upscaler(request.upscaler).upscale(drawn, scale=request.upscale)
                    pictures.append(with_parameters(drawn, recorded(place)))
        return pictures

    def prompts_of(self, plan: Plan, one: Pass) -> list[StepPrompts]:
        """What the network is told of the request's texts in each step of one of the plan's passes."""
        return plan.prompts_of(one, partial(self.encode, plan, one))

    def encode(self, plan: Plan, one: Pass, text: str, *, skip: int, negative: bool) -> Conditioning:
        """What a text of the request tells the network, one row; half precision that gives NaN is run in float32."""
        told = partial(
            self.family.encode,
            text,
            self.texts,
            clip_skip=skip,
            weighting=plan.program.weighting,
            size=one.size,
            negative=negative,
        )
        return NanGuard("text encoder")(lambda _: told(), next(self.text_encoder.parameters()).dtype)

    def noise(self, one: Pass, places: range) -> NoiseSource:
        """Gives unit-normal noise (len(places), 4, height/factor, width/factor), float32, at each call."""
        return one.noise.source(places, self.latent_shape(one.size), self.device)

    def denoise(
        self,
        one: Pass,
        prompts: Sequence[StepPrompts],
        noise_source: NoiseSource,
        *,
        start: InitImage | None = None,
        controls: Sequence[Control] = (),
        watchers: Watchers = NOBODY,
        nan_guard: NanGuard | None = None,
    ) -> Tensor:
        """From noise to clean latents (batch, 4, h, w) by one pass's run, see `sampling.run`."""
        return run(
            self.unet,
            self.schedule,
            one.run,
            prompts,
            noise_source,
            around=Surroundings(start, controls, one.size, self.card.name),
            dtype=self.dtype,
            watchers=watchers,
            nan_guard=nan_guard,
        )

    def recorded(self, request: Request, controls: Sequence[Control], loras: Loras) -> Callable[[int], str]:
        """What the picture at a place of the request's batch carries as its settings."""
        said = request.model_copy(update={"prompt": self.addons.recorded_prompt(request.prompt)})
        weighting = find_program(request.like).weighting
        words = words_used(self.tokenizer, f"{request.prompt}\n{request.negative}", weighting)
        noted = self.addons.recorded(loras, words) | controls_as_infotext(controls)
        return lambda place: to_infotext(said, place, self.card.name, noted)
