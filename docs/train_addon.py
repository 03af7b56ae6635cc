"""Trains the textual inversion that docs/addons.md shows, for the model that ships with the package.

    .venv/bin/python docs/train_addon.py        (minutes on a CPU)

It learns as the model itself did, to predict v in a noisy latent, from pictures of one purple frog; only two vectors
are trained, nothing of the model. They become docs/inputs/addons/mascot.safetensors, in A1111's form.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pages import INPUTS
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import diafano
from diafano.data.colours import COLOURS
from diafano.data.scenes import Scene, Thing, render
from diafano.data.sprites import Sprites
from diafano.picture import to_pixels
from diafano.stable_diffusion import StableDiffusion

FOLDER = INPUTS / "addons"
SIZE, SNAP, BATCH = 64, 4, 16
MASCOT_VECTORS, MASCOT_STEPS, MASCOT_RATE = 2, 160, 2e-2
MASCOT = Thing("frog", tint="purple")


def train_mascot(model: StableDiffusion) -> None:
    sprites, rng = Sprites.shipped(), np.random.default_rng(6)
    backgrounds = [colour for colour in COLOURS if colour != MASCOT.tint]
    scenes = [Scene((MASCOT,), colour) for colour in backgrounds for _ in range(16)]
    drawn = [render(scene, sprites, SIZE, rng, snap=SNAP, arrangement="even").pixels for scene in scenes]
    latents = encoded(model, [Image.fromarray(pixels) for pixels in drawn])
    embedding = model.text_encoder.token_embedding
    start = embedding(torch.tensor([model.tokenizer.encode("a frog")]))[0, -1:].detach()
    ids = embedding.add(start.repeat(MASCOT_VECTORS, 1))
    model.tokenizer.added.add("mascot", ids)
    vectors = embedding.added = nn.Parameter(embedding.added.clone())  # type: ignore[union-attr]
    rows = model.tokenizer([f"a mascot on a {scene.background} background" for scene in scenes])
    optimise(model, latents, lambda chosen: model.text_encoder(rows[chosen]), [vectors], MASCOT_STEPS, MASCOT_RATE)
    save_file({"emb_params": vectors.detach().clone()}, FOLDER / "mascot.safetensors")


def optimise(
    model: StableDiffusion, latents: Tensor, texts_of: Any, parameters: list[nn.Parameter], steps: int, rate: float
) -> None:
    """Squared error of the prediction, averaged over timesteps of chance."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for step, chosen in enumerate(itertools.islice(batches(len(latents)), steps), start=1):
        clean, noise = latents[chosen], torch.randn(len(chosen), *latents.shape[1:])
        timestep = torch.randint(len(model.schedule), (len(chosen),))
        noisy, target = model.schedule.add_noise(clean, noise, timestep), model.schedule.target(clean, noise, timestep)
        loss = (model.unet(noisy, timestep, texts_of(chosen)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step} of {steps}: {np.mean(losses[-50:]):.4f}", flush=True)


def batches(count: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count).split(BATCH)[: count // BATCH]


@torch.no_grad()
def encoded(model: StableDiffusion, pictures: list[Image.Image]) -> Tensor:
    """Latents (count, 4, 16, 16)."""
    pixels = torch.stack([to_pixels(picture) for picture in pictures])
    return torch.cat([model.autoencoder.encode(part).mean for part in pixels.split(64)])


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = diafano.load(device="cpu", dtype="float32")
    for part in (model.unet, model.text_encoder, model.autoencoder):
        part.requires_grad_(False)
    train_mascot(model)


if __name__ == "__main__":
    main()
