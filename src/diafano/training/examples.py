"""Captioned pictures to train on: what a recipe names, and which of them make the batch of a number.

That is decided by the number alone, so that a resumed run sees the same ones. See `feed` for the batches themselves.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diafano.errors import UserError
from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.data.folder import PictureFolder
from diafano.training.recipe import DataRecipe


class Examples:
    """All examples of a recipe in memory: `pixels` (count, size, size, 3) bytes, `captions` (count,)."""

    def __init__(self, pixels: NDArray[np.uint8], captions: Sequence[str]) -> None:
        if not len(pixels):
            raise UserError("There is no picture to train on.")
        self.pixels = pixels
        self.captions = list(captions)

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def read(cls, recipe: DataRecipe, *, count: int | None = None, held_out: bool = False) -> "Examples":
        """Draw or read what the recipe names, at most `count`; `held_out` asks for scenes kept from training."""
        source, total = open_source(recipe, held_out=held_out)
        total = total if count is None else min(count, total)
        pixels = np.empty((total, recipe.size, recipe.size, 3), np.uint8)
        captions = []
        for index in range(total):
            example = source.example(index)
            pixels[index] = example.pixels
            captions.append(example.caption)
        return cls(pixels, captions)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """Pixels in [-1, 1], (len(indices), 3, size, size), float32."""
        return to_pixels(self.pixels[indices], device)


def to_pixels(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Bytes (count, h, w, 3) -> (count, 3, h, w), float32 in [-1, 1]; in memory channels stay last, as is fastest."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def open_source(recipe: DataRecipe, *, held_out: bool = False) -> tuple[EmojiScenes | PictureFolder, int]:
    """What the recipe names, and how many examples it has."""
    if recipe.folder is not None:
        folder = PictureFolder(recipe.folder, recipe.size)
        return folder, len(folder)
    if recipe.sheet is not None:
        sprites = Sprites.from_sheet(recipe.sheet)
    else:
        sprites = Sprites.shipped() if recipe.sprites == "shipped" else Sprites.from_font(recipe.font)
    scenes = EmojiScenes(
        sprites,
        recipe.objects,
        recipe.size,
        recipe.seed,
        languages=recipe.languages,
        held_out=held_out,
        snap=recipe.snap,
        arrangement=recipe.arrangement,
        mix=recipe.mix,
    )
    return scenes, recipe.examples


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def indices_of(seed: int, number: int, batch: int, count: int) -> NDArray[np.int64]:
    """Which examples the batch of that number holds: every example once, in an order of chance, then all again."""
    first = number * batch
    positions = range(first, first + batch)
    return np.array([_epoch_order(seed, position // count, count)[position % count] for position in positions])


def generator_of(seed: int, number: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for everything else that chance decides in that batch."""
    mixed = int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator(device).manual_seed(mixed)
