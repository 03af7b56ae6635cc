"""diffusers: as it comes, in bfloat16 and channels_last, and compiled."""

import math
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from torch import Tensor  # noqa: E402

from . import GUIDANCE, NEGATIVE, PROMPT, SEED, SIGMAS  # noqa: E402
from .inputs import latent, pixels, text_embeddings  # noqa: E402

for logging in (diffusers.utils.logging, transformers.utils.logging):
    logging.set_verbosity_error()
    logging.disable_progress_bar()


class Diffusers:
    """In float32, otherwise as it comes too."""

    dtype = torch.float32

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> None:
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            self.folder, torch_dtype=self.dtype, safety_checker=None, requires_safety_checker=False
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.unet, self.vae = self.pipeline.unet, self.pipeline.vae

    def guided(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        without, towards = self.unet(torch.cat([x, x]), t, encoder_hidden_states=text, return_dict=False)[0].chunk(2)
        return without + GUIDANCE * (towards - without)

    @torch.inference_mode()
    def step(self, size: int, batch: int) -> float:
        x, text, t = latent(size, batch).to(self.dtype), text_embeddings(batch).to(self.dtype), torch.tensor(981)
        before = time.perf_counter()
        self.guided(x, t, text)
        return time.perf_counter() - before

    @torch.inference_mode()
    def decode(self, size: int, batch: int) -> None:
        self.vae.decode(latent(size, batch).to(self.dtype) / self.vae.config.scaling_factor, return_dict=False)

    @torch.inference_mode()
    def encode(self, size: int, batch: int) -> None:
        self.vae.encode(pixels(size, batch).to(self.dtype))

    @torch.inference_mode()
    def text(self, size: int = 512, batch: int = 1) -> Tensor:
        ids = self.pipeline.tokenizer([NEGATIVE, PROMPT], padding="max_length", max_length=77, return_tensors="pt")
        return self.pipeline.text_encoder(ids.input_ids)[0]

    def picture(self, size: int, batch: int, steps: int) -> None:
        self.pipeline(
            PROMPT,
            negative_prompt=NEGATIVE,
            width=size,
            height=size,
            num_images_per_prompt=batch,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator("cpu").manual_seed(SEED + i) for i in range(batch)],
        )

    @torch.inference_mode()
    def predictions(self, size: int) -> list[Tensor]:
        text = self.text().to(self.dtype)
        alphas = self.pipeline.scheduler.alphas_cumprod
        logs = ((1.0 - alphas) / alphas).sqrt().log()  # of the trained timesteps' sigmas, rising
        found = []
        for sigma in SIGMAS:
            # Between two trained timesteps, as k-diffusion finds it.
            above = min(int((logs < math.log(sigma)).sum()), len(logs) - 1)
            t = above - 1 + (math.log(sigma) - logs[above - 1]) / (logs[above] - logs[above - 1])
            found.append(self.guided(latent(size, 1).to(self.dtype), t, text).float())
        return found


class DiffusersBfloat16(Diffusers):
    """bfloat16, channels_last."""

    dtype = torch.bfloat16

    def load(self) -> None:
        super().load()
        self.unet.to(memory_format=torch.channels_last)
        self.vae.to(memory_format=torch.channels_last)


class DiffusersCompiled(DiffusersBfloat16):
    """The same compiled by torch; the first call of each shape compiles."""

    def load(self) -> None:
        super().load()
        for network in (self.unet, self.vae.encoder, self.vae.decoder):
            network.compile()
