"""What the judge learns from: the targets are where the warp put the objects."""

import numpy as np
import pytest
import torch

from diafano.evaluation.detector import BACKGROUND_CLASSES, TINT_CLASSES
from diafano.evaluation.judge_pictures import IGNORED, JudgePictures, spoilt, warped
from diafano.training.data.emoji.scene_sampler import held_out_combinations
from diafano.training.data.emoji.sprites import Sprites

OBJECTS = ("cat", "dog", "fox", "apple", "banana", "car", "star", "tree", "key", "robot")


@pytest.fixture(scope="module")
def pictures() -> JudgePictures:
    return JudgePictures(Sprites.shipped(), OBJECTS, seed=5)


def test_a_batch_is_decided_by_its_number(pictures: JudgePictures) -> None:
    first, again, other = pictures.batch(3, 4), pictures.batch(3, 4), pictures.batch(4, 4)
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.heat, again.heat)
    assert not torch.equal(first.pixels, other.pixels)
    other_seed = JudgePictures(pictures.sprites, OBJECTS, seed=6).batch(3, 4)
    assert not torch.equal(first.pixels, other_seed.pixels)


def test_shapes_ranges_and_classes(pictures: JudgePictures) -> None:
    batch = pictures.batch(0, 200)
    assert batch.pixels.shape == (200, 3, 64, 64)
    assert batch.pixels.min() >= -1 and batch.pixels.max() <= 1
    assert batch.heat.shape == (200, len(OBJECTS), 16, 16)
    assert batch.heat.min() >= 0 and batch.heat.max() == 1
    assert set(batch.tints.unique().tolist()) <= {IGNORED, *range(len(TINT_CLASSES))}
    assert set(batch.background.unique().tolist()) == {IGNORED, *range(len(BACKGROUND_CLASSES))}
    # A tint is asked for exactly where an object of its own stands.
    centres = (batch.heat == 1).any(dim=1)
    assert (batch.tints[centres] != IGNORED).all()
    assert (batch.tints[batch.heat.amax(dim=1) == 0] == IGNORED).all()


def test_it_sees_held_out_combinations_and_strangers(pictures: JudgePictures) -> None:
    rng = np.random.default_rng(0)
    scenes = [sampler.sample(rng) for sampler in pictures.known for _ in range(20)]
    assert any(held_out_combinations(scene) for scene in scenes)
    strangers = [sampler.sample(rng) for sampler in pictures.all for _ in range(20)]
    assert any(thing.name not in OBJECTS for scene in strangers for thing in scene.things)


def test_the_warp_moves_a_dot_to_where_it_says() -> None:
    pixels = torch.full((8, 3, 64, 64), -1.0)
    pixels[:, :, 14:17, 44:47] = 1.0  # centre at x 45.5, y 15.5 of 64
    moved, moves = warped(pixels, torch.Generator().manual_seed(1))
    mass = moved[:, 0] + 1
    places = torch.arange(64) + 0.5
    for one, move in zip(mass, moves, strict=True):
        x, y = (one.sum(0) * places).sum() / one.sum(), (one.sum(1) * places).sum() / one.sum()
        told = (move @ torch.tensor([45.5 / 32 - 1, 15.5 / 32 - 1, 1.0]) + 1) * 32
        assert (x.item(), y.item()) == pytest.approx(told.tolist(), abs=3.0)
        assert abs(x.item() - 45.5) + abs(y.item() - 15.5) > 0.05


def test_spoiling_keeps_a_picture_recognisable(pictures: JudgePictures) -> None:
    clean = torch.zeros(16, 3, 64, 64)
    clean[:, :, 20:40, 20:40] = 0.8
    faulty = spoilt(clean, torch.Generator().manual_seed(0))
    difference = (faulty - clean).square().mean().sqrt().item()
    assert 0.02 < difference < 0.15
    assert torch.allclose(faulty.add(1).mul(127.5), faulty.add(1).mul(127.5).round(), atol=1e-3)
