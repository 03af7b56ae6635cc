"""Does the network listen to who stands where? How its prediction changes when two names of a caption are exchanged.

"A house above a tree" and "a tree above a house" have the same words. A model that draws the same picture of both
answers them alike already in its first step, where places are decided: this tells it long before pictures do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from diafano.pictures.pixels import to_pixels
from diafano.stable_diffusion import StableDiffusion
from diafano.training.data.emoji.grammar import Grammar
from diafano.training.data.emoji.scene_sampler import SceneSampler
from diafano.training.data.emoji.scenes import LEAST_CELLS, render
from diafano.training.data.emoji.sprites import Sprites

PAIRS = 32
NOISE_LEVELS = (0.99, 0.9, 0.7, 0.4)
"""Timesteps that it is measured at, as shares of the schedule: where places are decided, and later."""


@dataclass(frozen=True)
class Exchange:
    """What exchanging the names does at one timestep."""

    timestep: int
    change: float
    """Of the prediction, over its size: 0 is no change; another object instead of one changes it by about 0.4."""
    error_ratio: float
    """The wrong caption's squared error over the true one's: 1 is a network that does not listen."""


@torch.inference_mode()
def exchanges(
    model: StableDiffusion,
    sprites: Sprites,
    grammar: Grammar,
    objects: Sequence[str],
    *,
    pairs: int = PAIRS,
    seed: int = 0,
) -> list[Exchange]:
    """The same `pairs` of held-out scenes of two things at each of the `NOISE_LEVELS`, in plain wordings."""
    rng = np.random.default_rng((seed, 77))
    sampler = SceneSampler(objects, held_out=True)
    scenes = [sampler.task("position", rng) for _ in range(pairs)]
    size, factor = min(model.card.size), model.autoencoder.factor
    snap = factor if size // factor >= LEAST_CELLS else 1
    pictures = [render(one, sprites, size, rng, snap=snap, arrangement="even").pixels for one in scenes]
    pixels = torch.stack([to_pixels(Image.fromarray(picture)) for picture in pictures]).to(model.device, model.dtype)
    clean = model.autoencoder.encode(pixels).mean.float()
    said = [grammar.canonical(scene) for scene in scenes]
    exchanged = [grammar.canonical(replace(scene, things=scene.things[::-1])) for scene in scenes]
    text = model.encode_text([*said, *exchanged]).to(model.dtype)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    found = []
    for level in NOISE_LEVELS:
        timestep = torch.full((pairs,), int(level * len(model.schedule)), device=model.device)
        noisy = model.schedule.add_noise(clean, noise, timestep)
        target = model.schedule.target(clean, noise, timestep)
        both = model.unet(noisy.repeat(2, 1, 1, 1).to(model.dtype), timestep.repeat(2), text).float()
        right, wrong = both.chunk(2)
        change = (wrong - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1).clamp(min=1e-6)
        errors = [(one - target).square().mean() for one in (wrong, right)]
        ratio = (errors[0] / errors[1].clamp(min=1e-9)).item()
        found.append(Exchange(int(timestep[0]), change.mean().item(), ratio))
    return found
