"""What is sampled for training, and what is held out."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from diafano.errors import UserError
from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.scene_sampler import (
    TASKS,
    TRAINING_MIX,
    SceneSampler,
    held_out_combinations,
    is_held_out,
)
from diafano.training.data.emoji.scenes import Scene, Thing


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def training_scenes() -> list[Scene]:
    sampler, generator = SceneSampler(), rng()
    return [sampler.sample(generator) for _ in range(5000)]


def test_no_held_out_combination_is_ever_trained_on(training_scenes: list[Scene]) -> None:
    for scene in training_scenes:
        for thing in scene.things:
            assert not is_held_out("object-background", thing.name, scene.background)
            assert thing.tint is None or not is_held_out("object-tint", thing.name, thing.tint)
        for first, second in combinations(scene.things, 2):
            assert not is_held_out("object-object", first.name, second.name)


def test_a_tenth_of_each_kind_is_held_out() -> None:
    names = list(OBJECTS)
    shares = {
        "tint": np.mean([is_held_out("object-tint", n, t) for n in names for t in TINTS]),
        "background": np.mean([is_held_out("object-background", n, b) for n in names for b in COLOURS]),
        "object": np.mean([is_held_out("object-object", a, b) for a, b in combinations(names, 2)]),
    }
    assert all(0.085 < share < 0.115 for share in shares.values()), shares


def test_what_is_held_out_never_changes() -> None:
    names = ("apple", "banana", "cat", "dog", "fox", "penguin", "car", "rose", "bus", "tree")
    found = {b: [name for name in names if is_held_out("object-background", name, b)] for b in ("red", "white", "blue")}
    assert found == {"red": [], "white": ["cat"], "blue": ["bus"]}


def test_pairs_of_objects_have_no_order() -> None:
    for first, second in combinations(list(OBJECTS)[:40], 2):
        assert is_held_out("object-object", first, second) == is_held_out("object-object", second, first)


def test_training_shows_everything(training_scenes: list[Scene]) -> None:
    assert {thing.name for scene in training_scenes for thing in scene.things} == set(OBJECTS)
    assert {scene.background for scene in training_scenes} == set(COLOURS)
    assert {thing.tint for scene in training_scenes for thing in scene.things} == {None, *TINTS}
    assert {thing.size for scene in training_scenes for thing in scene.things} == {None, "small", "big"}
    assert {scene.relation for scene in training_scenes} == {None, "left of", "right of", "above", "below"}
    counts = Counter(scene.sprite_count for scene in training_scenes)
    assert min(counts[n] for n in (1, 2, 3, 4)) > 250


def test_two_tints_in_a_scene_differ(training_scenes: list[Scene]) -> None:
    tints = [[t.tint for t in scene.things if t.tint] for scene in training_scenes if len(scene.things) == 2]
    both = [pair for pair in tints if len(pair) == 2]
    assert len(both) > 300
    assert all(first != second for first, second in both)


def test_the_mix_is_a_setting() -> None:
    only = SceneSampler(mix={"related": 1.0, "single": 0.0})
    generator = rng()
    assert all(only.sample(generator).relation is not None for _ in range(100))
    assert sum(TRAINING_MIX.values()) == pytest.approx(1)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_asks_for_something_held_out(task: str) -> None:
    sampler, generator = SceneSampler(held_out=True), rng()
    for _ in range(300):
        scene = sampler.task(task, generator)  # type: ignore[arg-type]
        kinds = {kind for kind, _, _ in held_out_combinations(scene)}
        first, *others = scene.things
        tints = [thing.tint for thing in scene.things]
        if task in ("single_object", "background", "counting"):
            assert "object-background" in kinds
            assert not others
            assert first.tint is None
            assert (2 <= first.count <= 4) == (task == "counting")
        elif task == "colour":
            assert "object-tint" in kinds
            assert (first.count, others) == (1, [])
        elif task == "colour_binding":
            assert "object-tint" in kinds
            assert len(set(tints)) == 2
            assert None not in tints
        else:
            assert "object-object" in kinds
            assert tints == [None, None]
            assert (scene.relation is not None) == (task == "position")
        assert all(thing.size is None for thing in scene.things)


def test_held_out_samples_are_held_out_and_of_every_task() -> None:
    sampler, generator = SceneSampler(held_out=True), rng()
    scenes = [sampler.sample(generator) for _ in range(500)]
    assert all(held_out_combinations(scene) for scene in scenes)
    assert any(scene.relation for scene in scenes)
    assert any(thing.count > 1 for scene in scenes for thing in scene.things)


def test_sampling_repeats() -> None:
    for held_out in (False, True):
        sampler = SceneSampler(held_out=held_out)
        first, second = rng(3), rng(3)
        assert [sampler.sample(first) for _ in range(50)] == [sampler.sample(second) for _ in range(50)]


def test_few_objects_suffice() -> None:
    names = ("cat", "dog", "apple", "bus", "rose", "key")
    sampler, generator = SceneSampler(names), rng()
    assert {thing.name for _ in range(200) for thing in sampler.sample(generator).things} == set(names)


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(UserError, match="different objects"):
        SceneSampler(())
    with pytest.raises(UserError, match="different objects"):
        SceneSampler(("cat", "cat"))
    with pytest.raises(UserError, match="'melted'"):
        SceneSampler(mix={"melted": 1.0})
    for share in (-1.0, float("nan"), 0.0):
        with pytest.raises(UserError, match="shares"):
            SceneSampler(mix={"single": share})
    with pytest.raises(UserError, match="held_out=True"):
        SceneSampler().task("colour", rng())
    with pytest.raises(UserError, match="'dreaming'"):
        SceneSampler(held_out=True).task("dreaming", rng())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="object-object"):
        SceneSampler(("cat",), held_out=True).task("position", rng())
    with pytest.raises(UserError, match="at least two objects"):
        SceneSampler(("cat",), mix={"two": 1.0}).sample(rng())


def test_held_out_combinations_names_them() -> None:
    name, colour = next((n, b) for n in OBJECTS for b in COLOURS if is_held_out("object-background", n, b))
    assert held_out_combinations(Scene((Thing(name),), colour)) == [("object-background", name, colour)]
