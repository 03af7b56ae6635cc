"""Putting it together: a request becomes pictures.

    prompt -> tokens (2, 77) -> text (2, 77, 768)         tokenizer, text encoder; negative first, then the prompt
    seed   -> noise (batch, 4, h/8, w/8)                  one generator a picture
    noise  -> latent, step by step along falling sigmas   UNet inside denoiser, guidance, sampler
    latent -> pixels (batch, 3, h, w) -> pictures         decoder

The shapes are Stable Diffusion v1's.
"""

import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, Unpack

import torch
from PIL import Image
from torch import Tensor

from diafano.engine.fused import accelerated
from diafano.engine.precision import NanGuard, run_with_nan_guard
from diafano.engine.tiles import decode
from diafano.errors import UserError
from diafano.families.matching import check_parts_match
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.lora import merged
from diafano.networks.tileable import tileable
from diafano.networks.unet import UNet
from diafano.noise.schedule import NoiseSchedule, NoiseSource
from diafano.pictures.metadata import with_parameters
from diafano.pictures.pixels import fit, to_picture
from diafano.pictures.upscaling import find_upscaler
from diafano.request.addons import Addons, Loras
from diafano.request.card import ModelCard
from diafano.request.controls import controls_as_infotext
from diafano.request.defaults import check_no_picture_is_needed, image_to_image_settings
from diafano.request.fast import with_level
from diafano.request.fields import LARGEST_EDGE, SMALLEST_EDGE
from diafano.request.noise import noise_of_request
from diafano.request.plan import passes_of, steps_before
from diafano.request.programs.table import find_program
from diafano.request.recorded import to_infotext
from diafano.request.request import Request, Settings, checked, split_sampler_name
from diafano.sampling.control import Control, Controlled
from diafano.sampling.deep_cache import DeepCache
from diafano.sampling.denoiser import Denoiser, Network
from diafano.sampling.guidance import guidance_of_steps
from diafano.sampling.hires import enlarged, steps_from
from diafano.sampling.init_image import InitImage, init_image
from diafano.sampling.prompts import StepGuidance, StepPrompts, prompts_of_steps
from diafano.sampling.samplers.table import SAMPLERS, StepInfo, find_sampler
from diafano.sampling.sigmas import AUTOMATIC
from diafano.text_encoder.bert import BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextEncoder
from diafano.text_encoder.lora_tags import without_tags
from diafano.text_encoder.prompt_embedding import embed_prompt
from diafano.text_encoder.spelling import cut_note
from diafano.text_encoder.tokenizer import Tokenizer

__all__ = ["ModelCard", "OnStep", "Request", "StableDiffusion"]

BATCH_PIXELS = 4 * 512 * 512
"""Most pixels of pictures that are denoised at once; memory grows with it, speed on a full device does not."""


class OnStep(Protocol):
    """Called in each step; the two latents are (batch, 4, h, w), the noisy one being ``clean + sigma * noise``."""

    def __call__(self, step: int, sigma: float, noisy: Tensor, clean: Tensor, /) -> object: ...


class StableDiffusion:
    """All parts of one model, each usable alone, and `generate`, which puts them together."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_encoder: CLIPTextEncoder | BERTTextEncoder,
        unet: UNet,
        autoencoder: Autoencoder,
        schedule: NoiseSchedule,
        card: ModelCard,
        addons: Addons | None = None,
    ) -> None:
        """Raises UserError where the parts do not fit each other."""
        check_parts_match(tokenizer, text_encoder, unet, autoencoder)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.unet = unet
        self.autoencoder = autoencoder
        self.schedule = schedule
        self.card = card
        self.addons = Addons() if addons is None else addons

    def with_autoencoder(self, autoencoder: Autoencoder, name: str, hash: str) -> "StableDiffusion":
        """The same model with another autoencoder, which its pictures record by that name and hash.

        All other parts are shared. See `checkpoints.vae.with_autoencoder` for one in a file.
        """
        addons = replace(self.addons, autoencoder=(name, hash))
        return StableDiffusion(**{**vars(self), "autoencoder": autoencoder, "addons": addons})

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in; the latent between its steps is always float32."""
        return self.unet.conv_in.weight.dtype

    @property
    def size_step(self) -> int:
        """Width and height of a picture must be multiples of this many pixels."""
        return self.autoencoder.factor

    def generate(
        self,
        prompt: str,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        controls: Sequence[Control] = (),
        on_step: OnStep | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """`count` pictures that show the prompt; what is left out is as the model's card says, the seed by chance.

        `Settings` has all names. `size` is (width, height), `clip_skip` 1 the text encoder's last layer. `like` is
        "diffusers", "a1111" or "comfyui": the program that draws the same picture of the same settings (see
        `request.programs`). The prompt may have A1111's syntax (see `text_encoder.a1111_syntax`) and any length.

        An `image` is drawn over, from `strength` 0 (it stays) to 1 (nothing of it stays; 0.75 if left out), at its own
        size or the nearest; with a `mask` only where that is white, with `outpaint` beyond its sides. See
        `request.fields.OverPicture` and docs/from_a_picture.md.
        `controls` are pictures that it is to follow, see `sampling.control.Control`.

        Each picture has its settings in ``info["parameters"]`` and keeps them when saved.
        See `draw` for `on_step`. Raises UserError, one sentence, for what cannot be done.
        """
        request, start = self.prepare(prompt, image=image, mask=mask, **settings)
        return self.draw(request, on_step, start, controls)

    def prepare(
        self,
        prompt: str,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        **settings: Unpack[Settings],
    ) -> tuple[Request, InitImage | None]:
        """What `draw` takes: the checked request and, where there is an `image` to draw over, its latent."""
        if image is None:
            check_no_picture_is_needed(settings, mask)
            return self.request(prompt, **settings), None
        over = image_to_image_settings(settings, image, mask, self.nearest_size, self.card.size)
        request = self.request(prompt, **over)
        with accelerated(self.autoencoder):
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
        """The checked request for `draw`: settings that are None or left out come from the model's card.

        A sampler other than the card's, a program to draw like and the schedule "automatic" bring the schedule that
        the sampler is usually run with.
        """
        automatic = str(settings.get("schedule")).strip().lower() == AUTOMATIC
        given = split_sampler_name(with_level({name: value for name, value in settings.items() if value is not None}))
        fields = {
            "steps": self.card.steps,
            "guidance": self.card.guidance,
            "sampler": self.card.sampler,
            "schedule": self.card.schedule,
            "size": self.card.size,
            "seed": secrets.randbelow(2**32),
            "variation_seed": secrets.randbelow(2**32) if "variation_strength" in given else None,
            **given,
            "prompt": prompt,
        }
        request = checked(Request, fields)
        sampler = find_sampler(request.sampler)
        program = find_program(request.like)
        if "schedule" not in given and (automatic or request.like or request.sampler != self.card.sampler):
            request = request.model_copy(update={"schedule": program.automatic(sampler)})
        if (difference := program.check(sampler)) is not None:
            warnings.warn(difference, stacklevel=3)
        for option, value in request.sampler_options.items():
            if option not in sampler.options:
                raise UserError(
                    f"the sampler {sampler.name} has no {option}, but {value} was given: leave it out, or use"
                    f" {', '.join(other.name for other in SAMPLERS.values() if option in other.options)}"
                )
        self.passes(request)  # which says where the second one is not possible
        if any(edge % self.size_step for edge in request.size):
            width, height = self.nearest_size(request.size)
            raise UserError(
                f"size {request.size[0]}x{request.size[1]} is not possible: width and height must be multiples of"
                f" {self.size_step}, such as {width}x{height}"
            )
        return request

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a picture that can be drawn, nearest to `size` and of about its shape."""
        step, largest = self.size_step, LARGEST_EDGE // self.size_step * self.size_step
        scale = min(max(1.0, SMALLEST_EDGE / min(size)), largest / max(size))
        width, height = (min(max(1, round(scale * edge / step)) * step, largest) for edge in size)
        return width, height

    def passes(self, request: Request) -> list[Request]:
        """The request itself and, where it has a second pass at high resolution, that pass's request."""
        return passes_of(request, self.size_step)

    def steps_of(self, request: Request) -> int:
        """How often `on_step` is called for each of `batches`: the steps of all passes."""
        return sum(len(self.sigmas(one)) - 1 for one in self.passes(request))

    def batches(self, request: Request) -> list[range]:
        """The places (0 is the first picture's) of the pictures that are drawn together, batch by batch."""
        at_once = max(1, BATCH_PIXELS // max(math.prod(one.size) for one in self.passes(request)))
        end = request.batch_position + request.count
        return [range(first, min(first + at_once, end)) for first in range(request.batch_position, end, at_once)]

    @torch.inference_mode()
    def draw(
        self,
        request: Request,
        on_step: OnStep | None = None,
        start: InitImage | None = None,
        controls: Sequence[Control] = (),
    ) -> list[Image.Image]:
        """The request's pictures, drawn over `start` if there is one and after the pictures of the `controls`.

        `on_step` is called once for each step of each of `batches`, steps from 0 on, through all `passes`. What it
        raises ends the drawing and leaves the model as it was. Where a run gave NaN on a GPU, its steps come again.
        """
        passes = self.passes(request)
        sigmas = [self.sigmas(one) for one in passes]
        loras = self.addons.loras_of(request.prompt)
        recorded = self.recorded(request, controls, loras)
        pictures: list[Image.Image] = []
        with merged(self.unet, self.text_encoder, loras), tileable(request.tileable):
            runs = [self.prompts_of_run(one, len(levels) - 1) for one, levels in zip(passes, sigmas, strict=True)]
            for places in self.batches(request):
                latent, over, done = torch.empty(0), start, 0
                for one, levels, run in zip(passes, sigmas, runs, strict=True):
                    if done > 0:
                        upscaler = find_upscaler(request.hires_upscaler)
                        over = enlarged(latent, one.size, self.autoencoder, upscaler=upscaler, tiles=request.tiles)
                    on_each, source = steps_from(on_step, done), partial(self.noise_source, one, places)
                    denoise = partial(self.denoise, run, levels, one, on_step=on_each, start=over, controls=controls)
                    latent = run_with_nan_guard(denoise, source, self.device)
                    done += len(levels) - 1
                for place, pixels in zip(places, self.decode(latent, request.tiles), strict=True):
                    drawn = to_picture(pixels) if start is None else start.pasted(to_picture(pixels))
                    pictures.append(with_parameters(drawn, recorded(place)))
        return pictures

    def recorded(self, request: Request, controls: Sequence[Control], loras: Loras) -> Callable[[int], str]:
        """What the picture at a place of the request's batch carries as its settings."""
        said = request.model_copy(update={"prompt": self.addons.recorded_prompt(request.prompt)})
        words = self.tokenizer.added.names_in(f"{request.prompt}\n{request.negative}")
        noted = self.addons.recorded(loras, words) | controls_as_infotext(controls)
        return lambda place: to_infotext(said, place, self.card.name, noted)

    def sigmas(self, request: Request) -> list[float]:
        """The falling noise levels of the run: ``steps + 1``, except where `request.like` counts steps otherwise.

        With `request.strength` the last share of them.
        """
        sampler, program = find_sampler(request.sampler), find_program(request.like)
        if request.strength is None:
            return program.grid(sampler, request.schedule, self.schedule, request.steps)
        second = steps_before(request) > 0
        return program.part_of_run(sampler, request.schedule, self.schedule, request.steps, request.strength, second)

    def prompts_of_run(self, request: Request, steps: int) -> list[StepPrompts]:
        """The embeddings of the request's texts, for each of the steps."""
        program, prompt = find_program(request.like), without_tags(request.prompt)
        nan_guard, dtype = NanGuard("text encoder"), next(self.text_encoder.parameters()).dtype

        def embed(text: str, skip: int = request.clip_skip) -> Tensor:
            if program.weighting is None:
                return nan_guard(lambda _: self.encode_text([text], skip)[0], dtype)
            how = partial(embed_prompt, skip=skip, weighting=program.weighting)
            return nan_guard(lambda _: how(text, self.tokenizer, self.text_encoder), dtype)

        if program.weighting == "a1111":
            return prompts_of_steps(prompt, request.negative, steps, embed, steps_before(request))
        skip_in_negative = request.clip_skip if program.skips_in_negative else 1
        return [StepPrompts(((embed(prompt), 1.0),), embed(request.negative, skip_in_negative))] * steps

    def encode_text(self, texts: Sequence[str], clip_skip: int = 1) -> Tensor:
        """Texts as they stand -> (count, tokens, text width), all in one batch. Warns of words that do not fit."""
        for note in filter(None, (cut_note(self.tokenizer, text) for text in texts)):
            warnings.warn(note, stacklevel=2)
        encoded: Tensor = self.text_encoder(self.tokenizer(texts).to(self.device), clip_skip)
        return encoded

    def noise_source(self, request: Request, places: range) -> NoiseSource:
        """Gives unit-normal noise (len(places), 4, height/factor, width/factor), float32, at each call."""
        width, height = (edge // self.autoencoder.factor for edge in request.size)
        shape = (self.autoencoder.config.latent_channels, height, width)
        return noise_of_request(request, places, shape, self.sigmas, self.device)

    def denoise(
        self,
        run: Sequence[StepPrompts],
        sigmas: Sequence[float],
        request: Request,
        noise_source: Callable[[], Tensor],
        on_step: OnStep | None = None,
        start: InitImage | None = None,
        controls: Sequence[Control] = (),
        nan_guard: NanGuard | None = None,
    ) -> Tensor:
        """From noise at ``sigmas[0]`` to clean latents (batch, 4, h, w), told in each step what `run` says."""
        program, sampler = find_program(request.like), find_sampler(request.sampler)
        noise = noise_source()
        if start is not None and len(sigmas) == 1:
            return start.noised(noise, 0.0)
        noisy = program.start(noise, sampler, self.schedule, sigmas[0])
        if start is not None and request.strength != 1.0:
            noisy = start.noised(noise, sigmas[0])
        seen = None if start is None or start.picture is None else start.beside
        scaled = partial(fit, width=request.size[0], height=request.size[1]) if seen is None else seen
        controlled = Controlled(self.unet, controls, scaled, len(sigmas) - 1, like=request.like)
        unet = controlled if request.deep_cache == 1 else DeepCache(controlled, request.deep_cache)
        network: Network = unet
        if self.unet.config.in_channels > noise.shape[1]:
            if start is None or start.latent_mask is None:
                raise UserError(f"the model {self.card.name} fills in pictures: give an image and a mask")
            network = start.inpainting(unet)
        denoiser = Denoiser(program.network(network, sampler, request.schedule), self.schedule, self.dtype, nan_guard)
        guidance = guidance_of_steps(request.guidance, request.guidance_interval, len(run))
        guide = StepGuidance(run, denoiser, guidance, len(noise), request.guidance_rescale)

        def after_step(info: StepInfo) -> None:
            guide.step = unet.step = info.step + 1
            if on_step is not None:
                on_step(info.step, info.sigma, info.x, info.clean)

        denoise = guide if start is None or network is not unet else start.keep(guide)
        options = request.sampler_options
        function = program.function(sampler, self.schedule)
        with accelerated(self.unet, *(control.network for control in controls)):
            latent = function(denoise, noisy, sigmas, noise_source=noise_source, on_step=after_step, **options)
        return program.finish(latent, sampler, self.schedule, sigmas)

    def decode(self, latent: Tensor, tiles: bool | None = None) -> Iterator[Tensor]:
        """Latents (batch, 4, h, w) of unit scale -> the pixels (3, height, width) of each, float32; see `tiles`."""
        return decode(self.autoencoder, latent, tiles=tiles)
