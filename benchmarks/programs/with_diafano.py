"""diafano, as its command runs it."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from diafano.engine.memory import keep_freed_memory
from diafano.engine.threads import wait_asleep

wait_asleep()
keep_freed_memory()

import torch  # noqa: E402 (OpenMP reads its settings when torch is imported)
from torch import Tensor  # noqa: E402

import diafano.checkpoints.diffusers  # noqa: E402 (what `diafano.load` imports of a folder)
from diafano.engine.fused import accelerated  # noqa: E402
from diafano.sampling.run import Watchers  # noqa: E402
from diafano.sampling.samplers.stepping import StepInfo  # noqa: E402

from . import GUIDANCE, NEGATIVE, PROMPT, SEED, SIGMAS  # noqa: E402
from .inputs import latent, pixels  # noqa: E402

STEPS = 20


class Enough(Exception):
    """Ends a run after the step that was to be timed."""


class Diafano:
    """In the number format that it chooses itself."""

    dtype = "auto"
    warms_itself = True  # a step's time is that of a run's second

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> None:
        self.model = diafano.load(self.folder, device="cpu", dtype=self.dtype)

    def request(self, size: int, batch: int, steps: int) -> diafano.Request:
        return self.model.request(
            PROMPT,
            negative=NEGATIVE,
            size=(size, size),
            count=batch,
            steps=steps,
            guidance=GUIDANCE,
            seed=SEED,
            sampler="euler",
        )

    def step(self, size: int, batch: int) -> float:
        """From the first step of a run to the second, sampler and all."""
        ends: list[float] = []

        def watch(*_: object) -> None:
            ends.append(time.perf_counter())
            if len(ends) == 2:
                raise Enough

        with contextlib.suppress(Enough):
            self.model.draw(self.request(size, batch, STEPS), watch)
        return ends[1] - ends[0]

    @torch.inference_mode()
    def decode(self, size: int, batch: int) -> None:
        with accelerated(self.model.autoencoder):  # as `draw` does
            list(self.model.decode(latent(size, batch)))

    @torch.inference_mode()
    def encode(self, size: int, batch: int) -> None:
        with accelerated(self.model.autoencoder):
            self.model.autoencoder.encode(pixels(size, batch).to(self.model.dtype))

    @torch.inference_mode()
    def text(self, size: int, batch: int) -> None:
        self.model.encode_text([NEGATIVE, PROMPT])

    def picture(self, size: int, batch: int, steps: int) -> None:
        self.model.draw(self.request(size, batch, steps))

    @torch.inference_mode()
    def predictions(self, size: int) -> list[Tensor]:
        found: list[Tensor] = []
        plan = self.model.plan(self.request(size, 1, STEPS))
        texts = self.model.prompts_of(plan, plan.passes[0])[:1]

        def watch(info: StepInfo) -> None:
            found.append((info.x - info.clean) / info.sigma)  # x = clean + sigma * noise

        with accelerated(self.model.unet):
            for sigma in SIGMAS:  # a run starts with a latent of which the network sees exactly the noise
                one = replace(plan.passes[0].run, sigmas=[sigma, 0.0], guidance=plan.passes[0].run.guidance[:1])
                only = replace(plan.passes[0], run=one)
                self.model.denoise(only, texts, lambda: latent(size, 1), watchers=Watchers(on_step=watch))
        return found


class DiafanoFloat32(Diafano):
    dtype = "float32"
