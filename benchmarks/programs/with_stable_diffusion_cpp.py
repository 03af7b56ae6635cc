"""stable-diffusion.cpp through its Python package; its weights stay in float16. It draws whole pictures only."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from stable_diffusion_cpp import StableDiffusion

from . import GUIDANCE, NEGATIVE, PROMPT, SEED

FILE = "model.safetensors"
"""The single file in the model's folder."""


class StableDiffusionCpp:
    warms_itself = True  # a step's time is that of a run's second

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> None:
        self.model = StableDiffusion(model_path=str(self.folder / FILE), n_threads=os.cpu_count(), verbose=False)

    def step(self, size: int, batch: int) -> float:
        """Between the reports of two steps."""
        ends: list[float] = []
        self.picture(size, batch, 2, lambda *_: ends.append(time.perf_counter()))
        return ends[1] - ends[0]

    def picture(self, size: int, batch: int, steps: int, watch: Callable[..., object] | None = None) -> None:
        self.model.generate_image(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            width=size,
            height=size,
            batch_count=batch,
            sample_steps=steps,
            sample_method="euler",
            cfg_scale=GUIDANCE,
            seed=SEED,
            progress_callback=watch,
        )
