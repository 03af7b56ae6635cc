"""Second stage: the text encoder learns from captions which picture they belong to (CLIP, Radford et al. 2021).

A small picture tower looks at the pictures; it is thrown away afterwards. What stays is the text encoder and the
tokenizer whose vocabulary was learnt from the same captions.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diafano.checkpoints.parts import write_part
from diafano.errors import note
from diafano.families.folder_parts import BERT, CLIP
from diafano.networks.layers import Downsample, ResidualBlock
from diafano.pictures.pixels import grid, to_picture
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextEncoder
from diafano.text_encoder.spelling import cut_captions_note
from diafano.text_encoder.tokenizer import train_byte_pair, train_word_piece
from diafano.training.examples import Examples, indices_of, open_source, to_pixels
from diafano.training.feed import Feed, Wanted, in_order
from diafano.training.losses import contrastive
from diafano.training.recipe import TextRecipe

LARGEST_SCALE = 100.0
"""CLIP's bound on the factor that the cosines are multiplied by; it starts at 1 / 0.07."""
HELD_OUT = 256
AT_ONCE = 64
NEIGHBOURS = 8
"""A batch of like examples is drawn from so many times its size of those nearest to one of chance."""


class PictureTower(nn.Module):
    """Pixels (b, 3, h, w) -> (b, out_width): residual levels, each half the size of the one before, then their mean."""

    def __init__(self, widths: tuple[int, ...], out_width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        levels: list[nn.Module] = []
        for before, after in zip((widths[0], *widths), widths, strict=False):
            levels += [Downsample(before, symmetric=True), ResidualBlock(before, after, groups=8, eps=1e-6)]
        self.levels = nn.Sequential(*levels)
        self.norm = nn.LayerNorm(widths[-1])
        self.projection = nn.Linear(widths[-1], out_width, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.levels(self.conv_in(pixels)).mean(dim=(2, 3))
        x = self.projection(self.norm(x))
        return x


class TextStage:
    """Contrastive loss between pictures and their captions in each batch."""

    def __init__(self, recipe: TextRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        source, self.count = open_source(recipe.data)
        self.held_out = Examples.read(recipe.data, count=HELD_OUT, held_out=True)
        # What chooses the batches: all captions, and one colour a picture.
        captions: list[str] = []
        colours: list[NDArray[np.float32]] = []
        for made in in_order(source, range(self.count), AT_ONCE, recipe.data.processes):
            captions += made.captions
            colours.append(made.pixels.mean(axis=(1, 2), dtype=np.float32))
        self.mean_colours = np.concatenate(colours)  # (count, 3)
        self.feed = Feed(source, lambda number: Wanted(self._indices(number)), recipe.data.processes)
        train_tokenizer = train_word_piece if recipe.kind == "bert" else train_byte_pair
        self.tokenizer = train_tokenizer(captions, recipe.vocabulary, length=recipe.network.positions)
        network = recipe.network.model_copy(
            update={
                "vocabulary": self.tokenizer.vocabulary_size,
                "start_token": self.tokenizer.start_token,
                "end_token": self.tokenizer.end_token,
                "pad_token": self.tokenizer.pad_token,
            }
        )
        torch.manual_seed(recipe.loop.seed)  # of the starting weights
        self.text_encoder: CLIPTextEncoder | BERTTextEncoder = (
            BERTTextEncoder(network) if isinstance(network, BERTConfig) else CLIPTextEncoder(network)
        )
        self.pictures = PictureTower(recipe.picture_widths, recipe.shared_width)
        self.texts = nn.Linear(network.width, recipe.shared_width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.trained: nn.Module = nn.ModuleDict(
            {
                "text_encoder": self.text_encoder,
                "pictures": self.pictures,
                "texts": self.texts,
                "scale": nn.ParameterList([self.log_scale]),
            }
        ).to(device)
        self.ids = self.tokenizer(captions)
        if (cut := cut_captions_note(self.tokenizer, captions, self.ids)) is not None:
            note(cut)
        tokenizer = self.tokenizer
        self.words = weighted_words(self.ids, (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token))
        self.held_out_ids = self.tokenizer(self.held_out.captions)

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        made = self.feed(number)
        pictures = self.pictures(to_pixels(made.pixels, self.device))
        texts = self._embed(self.tokenizer(made.captions))
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        return contrastive(pictures.float(), texts.float(), scale), {"scale": scale}

    def _indices(self, number: int) -> NDArray[np.int64]:
        """The examples of the batch of that number: all kinds, or around one of chance those most like it."""
        loop, recipe = self.recipe.loop, self.recipe
        indices = indices_of(loop.seed, number, loop.batch, self.count)
        rng = np.random.default_rng((loop.seed, number))
        kind = rng.random()
        if kind < recipe.alike:
            distances = np.square(self.mean_colours - self.mean_colours[indices[0]]).sum(axis=1)
        elif kind < recipe.alike + recipe.alike_captions:
            distances = -(self.words @ self.words[indices[0]])
        else:
            return indices
        nearest = np.argsort(distances, kind="stable")[: NEIGHBOURS * loop.batch]
        return rng.permutation(nearest)[: loop.batch]

    def _embed(self, ids: Tensor) -> Tensor:
        """Ids (b, 77) -> (b, shared width). No token that counts sees what follows its text's end, so it can be cut."""
        longest = int((ids == self.tokenizer.end_token).int().argmax(dim=1).max()) + 1
        ids = ids[:, :longest].to(self.device)
        embedded: Tensor = self.texts(self.text_encoder.pooled(self.text_encoder(ids), ids))
        return embedded

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Eight held-out pictures, each beside the one that its caption fits best; how often these are the same."""
        pixels = self.held_out.batch(np.arange(len(self.held_out)), self.device)
        pictures = F.normalize(torch.cat([self.pictures(part) for part in torch.split(pixels, 64)]).float(), dim=-1)
        texts = F.normalize(
            torch.cat([self._embed(part) for part in torch.split(self.held_out_ids, 64)]).float(), dim=-1
        )
        best = (texts @ pictures.T).argmax(dim=1).cpu()
        right = (best == torch.arange(len(best))).float().mean().item()
        shown = [to_picture(one) for one in (*pixels[:8], *pixels[best[:8].to(self.device)])]
        return grid(shown, 8), {"retrieval": right}

    def save(self, folder: Path) -> None:
        """`text_encoder/` and `tokenizer/` as transformers has them."""
        write_part(self.text_encoder, folder / "text_encoder", BERT if self.recipe.kind == "bert" else CLIP)
        self.tokenizer.save(folder / "tokenizer")


def weighted_words(ids: Tensor, ignored: Sequence[int]) -> NDArray[np.float32]:
    """Which tokens each text has, whatever their order, as unit vectors: (count, 77) -> (count, vocabulary).

    Their products are 1 for texts of the same words. A token counts the logarithm of how rare it is, so that what
    every caption says ("a", "picture") makes none alike.
    """
    count = len(ids)
    present = np.zeros((count, int(ids.max()) + 1), np.float32)
    present[np.arange(count)[:, None], ids.numpy()] = 1.0
    present[:, list(ignored)] = 0.0
    weighted = present * np.log(count / np.maximum(present.sum(axis=0), 1.0)).astype(np.float32)
    unit: NDArray[np.float32] = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-6)
    return unit
