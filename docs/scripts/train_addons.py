"""Makes the add-ons that docs/addons.md shows, for the model that ships with the package.

    .venv/bin/python docs/scripts/train_addons.py [ink] [mascot] [sepia]        (all: minutes on 2 CPU cores)

    ink       a LoRA: everything is drawn in ink            docs/inputs/addons/ink.safetensors, kohya's names
    mascot    a textual inversion: one purple frog          docs/inputs/addons/mascot.safetensors, A1111's form
    sepia     an autoencoder: pictures come out in sepia    docs/inputs/addons/sepia/, diffusers' `vae` folder

The first two learn as the model itself did, to predict v in a noisy latent; only what is added is trained, nothing of
the model. The third needs no training. For the ControlNet see train_controlnet.py.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

import diafano
from diafano.checkpoints.parts import write_part
from diafano.checkpoints.writing import folder_in_place
from diafano.families.family import WriteContext
from diafano.families.folder_parts import AUTOENCODER
from diafano.pictures.pixels import to_pixels
from diafano.stable_diffusion import StableDiffusion
from diafano.training.data.emoji.colours import COLOURS
from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.scenes import Scene, Thing, render
from diafano.training.data.emoji.sprites import Sprites
from pages import INPUTS

FOLDER = INPUTS / "addons"
SIZE, SNAP, BATCH = 64, 4, 16
INK_PICTURES, INK_STEPS, INK_RANK, INK_RATE = 800, 250, 4, 4e-3
MASCOT_VECTORS, MASCOT_STEPS, MASCOT_RATE = 2, 160, 2e-2
MASCOT = Thing("frog", tint="purple")
SEPIA = torch.tensor([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
"""Red, green and blue from red, green and blue in [0, 1]: CSS's filter sepia(1)."""


class LowRank(nn.Module):
    """weight -> weight + up @ down; nothing at first, as ``up`` is zero."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, *weight.shape[1:]) * weight[0].numel() ** -0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank, *[1] * (weight.ndim - 2)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up.flatten(1) @ self.down.flatten(1)).reshape(weight.shape)


def train_ink(model: StableDiffusion) -> None:
    scenes = EmojiScenes(Sprites.shipped(), model.card.objects, SIZE, seed=5, snap=SNAP, arrangement="even")
    examples = [scenes.example(index) for index in range(INK_PICTURES)]
    latents = encoded(model, [in_ink(Image.fromarray(example.pixels)) for example in examples])
    texts = model.encode_text([*(example.caption for example in examples), ""]).detach()
    learnt: dict[str, LowRank] = {}
    for name, layer in model.unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and ("attentions" in name or "resnets" in name):
            learnt[name] = LowRank(layer.weight, INK_RANK)
    for name, low_rank in learnt.items():
        parametrize.register_parametrization(model.unet.get_submodule(name), "weight", low_rank)

    def texts_of(chosen: Tensor) -> Tensor:
        dropped = torch.rand(len(chosen)) < 0.1  # so that guidance has something to lead away from
        return texts[torch.where(dropped, len(examples), chosen)]

    parameters = [one for low_rank in learnt.values() for one in low_rank.parameters()]
    optimise(model, latents, texts_of, parameters, INK_STEPS, INK_RATE)
    tensors: dict[str, Tensor] = {}
    for name, low_rank in learnt.items():
        place = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{place}.lora_down.weight"] = low_rank.down.detach().half()
        tensors[f"{place}.lora_up.weight"] = low_rank.up.detach().half()
        tensors[f"{place}.alpha"] = torch.tensor(float(INK_RANK))
    save_file(tensors, FOLDER / "ink.safetensors")


def in_ink(picture: Image.Image) -> Image.Image:
    """The outlines of a picture, black on white."""
    grey = ImageOps.expand(ImageOps.grayscale(picture), 2, fill=int(np.asarray(picture.convert("L"))[0, 0]))
    lines = grey.filter(ImageFilter.CONTOUR).filter(ImageFilter.MinFilter(3))
    return lines.crop((2, 2, grey.width - 2, grey.height - 2)).convert("RGB")


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


@torch.no_grad()
def make_sepia(model: StableDiffusion) -> None:
    """The last convolution is linear, and so is sepia: the two are one convolution."""
    last = model.autoencoder.decoder.conv_out
    assert last.bias is not None
    last.weight.copy_(torch.einsum("oc,cihw->oihw", SEPIA, last.weight))
    last.bias.copy_(SEPIA @ (last.bias + 1) - 1)  # pixels x stand for colours (x + 1) / 2
    with folder_in_place(FOLDER / "sepia", marker="config.json") as folder:
        write_part(model.autoencoder, folder, AUTOENCODER, WriteContext((SIZE, SIZE)), dtype=torch.float16)


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
    for name in sys.argv[1:] or ["ink", "mascot", "sepia"]:
        torch.manual_seed(0)
        model = diafano.load(device="cpu", dtype="float32")
        for part in (model.unet, model.text_encoder, model.autoencoder):
            part.requires_grad_(False)
        {"ink": train_ink, "mascot": train_mascot, "sepia": make_sepia}[name](model)


if __name__ == "__main__":
    main()
