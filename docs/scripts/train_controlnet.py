"""Trains the ControlNet that docs/addons.md shows, for the model that ships with the package.

    .venv/bin/python docs/scripts/train_controlnet.py      (five minutes on 2 CPU cores; goes on where it was stopped)

It follows silhouettes, white on black: docs/inputs/addons/silhouettes.safetensors, in diffusers' names. The network
begins as a copy of the UNet's way down, and learns what the UNet learnt, to predict v in noisy latents of emoji
scenes, but is shown where things stand, half of them at places where the model alone never puts anything. Nothing of
the model is trained. The loop is `training.loop`'s, its log and previews are in runs/silhouettes.
"""

import copy
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import diafano
from diafano.networks.controlnet import ControlNet
from diafano.pictures.pixels import grid, to_pixels
from diafano.sampling.control import Control
from diafano.stable_diffusion import StableDiffusion
from diafano.training.data.emoji.arrangements import Arrangement
from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.scenes import Placement, RenderedScene, Scene, Thing
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.examples import generator_of, indices_of
from diafano.training.loop import Progress, Training
from diafano.training.recipe import LoopRecipe
from pages import INPUTS

TRAINED = INPUTS / "addons" / "silhouettes.safetensors"
RUN = Path("runs/silhouettes")
ARRANGEMENTS: tuple[Arrangement, ...] = ("even", "free")
SIZE, SNAP, SCENES, SHOWN = 64, 4, 5000, 24
HINTS: dict[str, list[tuple[str, int, int, int]]] = {
    "fox_and_banana": [("fox", 4, 4, 24), ("banana", 36, 32, 24)],
    "stars": [("star", 4, 4, 20), ("star", 24, 20, 20), ("star", 40, 40, 20)],
}
"""Name -> things, their left and top, and their edge, in pixels."""
HINT_WIDTHS = (16, 32, 96)
"""Halves twice: 64 pixels are 16 latent positions."""
DROPPED = 0.2
"""Share of captions left out, so that the network reads the silhouettes, not the text alone."""
TIMESTEP_POWER = 0.6
"""Places are decided where there is much noise: there it is trained more often."""
LOOP = LoopRecipe(
    steps=400,
    batch=16,
    accumulate=2,
    workers=2,
    optimiser="muon",
    learning_rate=2e-3,
    warmup=30,
    weight_decay=0.0,
    ema=0.99,
    checkpoint_every=100,
    preview_every=150,
    log_every=20,
    tensorboard=False,
)


class ControlStage:
    """What `training.loop` trains: the ControlNet, beside a model that stays as it is."""

    def __init__(self, model: StableDiffusion) -> None:
        self.model, self.sprites = model, Sprites.shipped()
        torch.manual_seed(LOOP.seed)  # of the hint encoder
        self.network = ControlNet.copied_from(model.unet, HINT_WIDTHS).train()
        self.trained: nn.Module = self.network
        for layer in (self.network.controlnet_cond_embedding.conv_in, *self.network.controlnet_cond_embedding.blocks):
            nn.init.kaiming_normal_(layer.weight)  # with torch's own start, little of the picture comes through
        drawn = [self._scene(index) for index in range(SCENES)]
        self.hints = torch.from_numpy(np.stack([silhouettes(scene, self.sprites) for scene, _ in drawn]))
        pictures = [to_pixels(Image.fromarray(scene.pixels)) for scene, _ in drawn]
        texts = ["", *(text for _, text in drawn)]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents = [model.autoencoder.encode(part).mean.float() for part in torch.stack(pictures).split(64)]
            embedded = [model.encode_text(texts[at : at + 64]).half() for at in range(0, len(texts), 64)]
        self.latents, self.texts = torch.cat(latents), torch.cat(embedded)  # (1 + SCENES, 77, 256), the empty one first

    def _scene(self, index: int, *, held_out: bool = False) -> tuple[RenderedScene, str]:
        arrangement = ARRANGEMENTS[index % len(ARRANGEMENTS)]
        objects = self.model.card.objects
        scenes = EmojiScenes(
            self.sprites, objects, SIZE, seed=11, held_out=held_out, snap=SNAP, arrangement=arrangement
        )
        return scenes.described(index)

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.from_numpy(indices_of(LOOP.seed, number, LOOP.batch, SCENES))
        generator, schedule = generator_of(LOOP.seed, number), self.model.schedule
        dropped = torch.rand(len(chosen), generator=generator) < DROPPED
        text = self.texts[torch.where(dropped, 0, chosen + 1)].float()
        clean = self.latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        chance = torch.rand(len(clean), generator=generator, dtype=torch.float64)
        timestep = (len(schedule) * chance**TIMESTEP_POWER).long()
        noisy, target = schedule.add_noise(clean, noise, timestep), schedule.target(clean, noise, timestep)
        hint = self.network.hint(self.hints[chosen][:, None].expand(-1, 3, -1, -1).float() / 255)
        predicted = self.model.unet(noisy, timestep, text, self.network(noisy, timestep, text, hint))
        return (predicted.float() - target).square().mean(), {}

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Held-out scenes: silhouettes, what is drawn with them, and without."""
        network, pictures = copy.deepcopy(self.network).eval(), []
        rows: list[list[Image.Image]] = [[], [], []]
        for index in range(SHOWN):
            scene, text = self._scene(index, held_out=True)
            hint = Image.fromarray(silhouettes(scene, self.sprites)).convert("RGB")
            drawn = self.model.generate(text, seed=index, steps=12, controls=[Control(network, hint)])
            plain = self.model.generate(text, seed=index, steps=12)
            for row, picture in zip(rows, (hint, *drawn, *plain), strict=True):
                row.append(picture)
        half = SHOWN // 2
        pictures = [picture for part in (slice(half), slice(half, None)) for row in rows for picture in row[part]]
        return grid(pictures, half), {}

    def save(self, folder: Path) -> None:
        """In half precision, as the model."""
        TRAINED.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().half().contiguous() for name, tensor in self.network.state_dict().items()}
        partial = TRAINED.with_suffix(".partial")
        save_file(weights, partial)
        partial.chmod(0o644)  # safetensors closes it to everyone else
        partial.replace(TRAINED)


def silhouettes(scene: RenderedScene, sprites: Sprites) -> NDArray[np.uint8]:
    """(size, size) bytes: 255 where a thing of the scene is, 0 elsewhere."""
    made = np.zeros(scene.pixels.shape[:2], np.uint8)
    for one in scene.placements:
        left, top, right, bottom = (int(edge) for edge in one.box)
        alpha = sprites.sized(one.name, right - left)[..., 3]
        made[top:bottom, left:right] = np.maximum(made[top:bottom, left:right], np.where(alpha >= 128, 255, 0))
    return cast("NDArray[np.uint8]", made)


def draw_hints() -> None:
    """The pictures that docs/addons.md's commands give to the network."""
    sprites = Sprites.shipped()
    for name, places in HINTS.items():
        placements = tuple(
            Placement(thing, None, (left, top, left + edge, top + edge)) for thing, left, top, edge in places
        )
        scene = RenderedScene(Scene((Thing(places[0][0]),), "black"), np.zeros((SIZE, SIZE, 3), np.uint8), placements)
        Image.fromarray(silhouettes(scene, sprites)).convert("1").save(TRAINED.parent / f"{name}.png", optimize=True)


def main() -> None:
    draw_hints()
    model = diafano.load(device="cpu", dtype="float32")
    for part in (model.unet, model.text_encoder, model.autoencoder):
        part.requires_grad_(False)

    def report(progress: Progress) -> None:
        print(f"step {progress.step} of {progress.steps}: {progress.terms['loss']:.4f},", end=" ")
        print(f"{progress.pictures_per_second:.0f} pictures/s, {progress.seconds_left:.0f} s left", flush=True)

    Training(ControlStage(model), LOOP, RUN, model.device).run(report)


if __name__ == "__main__":
    main()
