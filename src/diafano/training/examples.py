"""Batches of captioned pictures, each decided by a step's number alone, so that a resumed run sees the same ones."""

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

WINDOW_TRIES = 4


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
        source: EmojiScenes | PictureFolder
        if recipe.folder is not None:
            source = PictureFolder(recipe.folder, recipe.size)
            total = len(source)
        else:
            source = emoji_scenes(recipe, held_out=held_out)
            total = recipe.examples
        total = total if count is None else min(count, total)
        pixels = np.empty((total, recipe.size, recipe.size, 3), np.uint8)
        captions = []
        for index in range(total):
            example = source.example(index)
            pixels[index] = example.pixels
            captions.append(example.caption)
        return cls(pixels, captions)

    def windows(self, indices: NDArray[np.int64], edge: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """A square window of each picture, the most varied of a few places of chance: (len(indices), 3, edge, edge).

        Convolutions learn little from flat surroundings, which are most of many pictures.
        """
        places = rng.integers(0, self.pixels.shape[1] - edge + 1, size=(len(indices), WINDOW_TRIES, 2))
        chosen = np.empty((len(indices), edge, edge, 3), np.uint8)
        for row, (index, tries) in enumerate(zip(indices, places, strict=True)):
            windows = [self.pixels[index, top : top + edge, left : left + edge] for top, left in tries]
            chosen[row] = max(windows, key=lambda window: float(window.std(axis=(0, 1)).sum()))
        return _to_pixels(chosen, device)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """Pixels in [-1, 1], (len(indices), 3, size, size), float32."""
        return _to_pixels(self.pixels[indices], device)


def _to_pixels(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Bytes (count, h, w, 3) -> (count, 3, h, w), float32 in [-1, 1]; in memory channels stay last, as is fastest."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def emoji_scenes(recipe: DataRecipe, *, held_out: bool = False) -> EmojiScenes:
    """The scenes that a recipe's data section describes."""
    sprites = Sprites.shipped() if recipe.sprites == "shipped" else Sprites.from_font(recipe.font)
    return EmojiScenes(
        sprites,
        recipe.objects,
        recipe.size,
        recipe.seed,
        held_out=held_out,
        snap=recipe.snap,
        arrangement=recipe.arrangement,
        mix=recipe.mix,
    )


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
