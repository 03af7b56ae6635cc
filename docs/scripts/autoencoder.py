"""Draws docs/autoencoder.png: scenes that the embedded model never saw, above what its autoencoder gives back.

.venv/bin/python docs/scripts/autoencoder.py
"""

from pathlib import Path

import torch
from PIL import Image

import diafano
from diafano.pictures.files import save_picture
from diafano.pictures.pixels import grid, to_picture, to_pixels
from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.sprites import Sprites

COUNT, SEED = 12, 5


def main() -> None:
    model = diafano.load()
    scenes = EmojiScenes(Sprites.shipped(), size=model.card.size[0], seed=SEED, held_out=True)
    originals = [Image.fromarray(scenes.example(index).pixels) for index in range(COUNT)]
    with torch.inference_mode():
        latents = model.autoencoder.encode(torch.stack([to_pixels(picture) for picture in originals])).mean
        again = [to_picture(pixels) for pixels in model.decode(latents)]
    save_picture(grid([*originals, *again], columns=COUNT), Path(__file__).parents[1] / "autoencoder.png")


if __name__ == "__main__":
    main()
