"""The Fréchet distance: exact on normal distributions, and it sees what is wrong with pictures."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from diafano.evaluation.accuracy import true_pixels
from diafano.evaluation.frechet import distance_from_true, frechet_distance
from diafano.evaluation.judge import Judge
from diafano.training.data.emoji.scenes import Scene, Thing
from diafano.training.data.emoji.sprites import Sprites


def test_one_dimension_has_a_closed_form() -> None:
    one = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    other = torch.tensor([[3.0], [9.0]])  # mean 6, variance 18
    assert frechet_distance(one, other) == pytest.approx((6 - 1) ** 2 + (18**0.5 - 2**0.5) ** 2)


def test_a_set_is_at_no_distance_from_itself() -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_is_what_the_matrix_square_root_says() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(60, 6, generator=generator), 2 * torch.randn(40, 6, generator=generator) + 1
    first, second = (np.cov(features.double().numpy(), rowvar=False) for features in (one, other))
    apart = (one.double().mean(0) - other.double().mean(0)).square().sum().item()
    wanted = apart + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)
    assert frechet_distance(one, other) == pytest.approx(wanted, rel=1e-9)


def test_fewer_pictures_than_features_are_no_trouble() -> None:
    generator = torch.Generator().manual_seed(2)
    one, other = torch.randn(5, 30, generator=generator), torch.randn(7, 30, generator=generator)
    assert 0 < frechet_distance(one, other) < 1000


def test_true_pictures_are_nearest_and_noise_farthest() -> None:
    judge, sprites = Judge.shipped(), Sprites.shipped()
    scenes = [
        Scene((Thing(name),), colour) for name in ("penguin", "apple", "car") for colour in ("red", "blue", "green")
    ]
    true = true_pixels(scenes, sprites, np.random.default_rng(0))
    found: Any = {
        "true": distance_from_true(judge, true, scenes, sprites),
        "dim": distance_from_true(judge, 0.5 * true, scenes, sprites),
        "noise": distance_from_true(judge, torch.randn(true.shape), scenes, sprites),
    }
    assert found["true"] < found["dim"] < found["noise"]
    assert distance_from_true(judge, true[:1], scenes[:1], sprites) is None
