"""Exchanged names: a network that does not read changes nothing, one that hears the order does."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from diafano.stable_diffusion import StableDiffusion
from diafano.training.data.emoji.grammar import EnglishGrammar
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.exchanged import NOISE_LEVELS, exchanges

OBJECTS = ("cat", "dog", "fox", "apple", "banana", "car", "tree", "house", "star", "key")


class Answer(nn.Module):
    """Predicts the noise that there is, plus or minus how the text's end begins, which depends on all words."""

    def __init__(self, model: StableDiffusion, heard: float) -> None:
        super().__init__()
        self.conv_in = model.unet.conv_in
        self.config = model.unet.config
        self.heard = heard

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return latent + self.heard * text[:, -1, :1, None, None]


@pytest.mark.parametrize("heard", [0.0, 1.0])
def test_the_change_is_none_without_listening(tiny_model: StableDiffusion, heard: float) -> None:
    model = deepcopy(tiny_model)
    model.unet = Answer(tiny_model, heard)  # type: ignore[assignment]
    found = exchanges(model, Sprites.shipped(), EnglishGrammar(), OBJECTS, pairs=6)
    assert [one.timestep for one in found] == [int(level * 1000) for level in NOISE_LEVELS]
    for one in found:
        assert (one.change > 0.001) == (heard > 0)
        assert (abs(one.error_ratio - 1) > 1e-6) == (heard > 0)


def test_the_same_pairs_each_time(tiny_model: StableDiffusion) -> None:
    first, again = (exchanges(tiny_model, Sprites.shipped(), EnglishGrammar(), OBJECTS, pairs=4) for _ in range(2))
    assert first == again
    assert torch.isfinite(torch.tensor([one.change for one in first])).all()
