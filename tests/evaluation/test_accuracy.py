"""The shipped judge on true scenes, and on pictures that show nothing."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from diafano.evaluation.accuracy import Accuracy, accuracy_of, near_miss
from diafano.evaluation.judge import Judge
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.scene_sampler import TASKS, SceneSampler, Task
from diafano.training.data.emoji.scenes import Scene, Thing, render
from diafano.training.data.emoji.sprites import Sprites


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.shipped()


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return Sprites.shipped()


def test_the_shipped_judge_is_right_about_true_scenes(judge: Judge, sprites: Sprites) -> None:
    for task, row in accuracy_of(judge, sprites, scenes=70, seed=4).items():
        assert row.accuracy >= 0.97, task
        assert row.counted, task


@pytest.mark.parametrize("task", TASKS)
def test_a_near_miss_differs_and_is_a_scene(task: Task) -> None:
    objects = ("cat", "dog", "fox", "apple", "banana", "car", "star", "tree", "key", "robot", "fish", "pizza")
    sampler, rng = SceneSampler(objects, held_out=True), np.random.default_rng(0)
    for _ in range(100):
        scene = sampler.task(task, rng)
        other = near_miss(task, scene, objects, {"star": "yellow"}, rng)  # Scene and Thing check themselves
        assert other != scene
        for before, after in zip(scene.things, other.things, strict=True):
            assert (before.name, before.tint, after.tint) != ("star", "yellow", None)  # one cannot tell the two apart
        if task == "counting":
            assert other.things[0].count != scene.things[0].count
        if task == "position":
            assert {scene.relation, other.relation} in ({"left of", "right of"}, {"above", "below"})
        if task == "background":
            assert other.things == scene.things


def test_a_judge_that_accepts_everything_is_not_counted() -> None:
    assert not Accuracy(accepts=1.0, rejects=0.9, scenes=200).counted
    assert not Accuracy(accepts=0.9, rejects=1.0, scenes=200).counted
    assert Accuracy(accepts=0.97, rejects=0.97, scenes=200).counted
    assert Accuracy(accepts=1.0, rejects=0.9, scenes=200).accuracy == pytest.approx(0.95)


def pictures_of(scenes: list[Scene], sprites: Sprites) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(render(scene, sprites, 64, rng).pixels) for scene in scenes]


def test_blobs_are_no_objects(judge: Judge, sprites: Sprites) -> None:
    clean = pictures_of([Scene((Thing(name),), "white") for name in judge.objects], sprites)
    seen = judge.look([picture.filter(ImageFilter.GaussianBlur(5)) for picture in clean])
    assert sum(bool(one.detections) for one in seen) <= 0.05 * len(seen)


def test_slightly_soft_pictures_are_still_recognised(judge: Judge, sprites: Sprites) -> None:
    clean = pictures_of([Scene((Thing(name),), "cyan") for name in judge.objects], sprites)
    seen = judge.look([picture.filter(ImageFilter.GaussianBlur(0.7)) for picture in clean])
    assert np.mean([bool(one.of(name)) for one, name in zip(seen, judge.objects, strict=True)]) >= 0.97


def test_noise_and_blank_pictures_show_nothing(judge: Judge) -> None:
    noise = torch.rand((20, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    for sighting in judge.look_at_pixels(noise):
        assert sighting.detections == () and sighting.background is None
    for sighting in judge.look([Image.new("RGB", (64, 64), colour) for colour in ("white", "black", "grey", "red")]):
        assert sighting.detections == ()


def test_strangers_are_not_taken_for_objects_that_it_knows(judge: Judge, sprites: Sprites) -> None:
    strangers = [name for name in OBJECTS if name not in judge.objects]
    assert len(strangers) > 80
    seen = judge.look(pictures_of([Scene((Thing(name),), "grey") for name in strangers], sprites))
    assert sum(bool(one.detections) for one in seen) <= 0.1 * len(seen)
