"""Scenes: what can be said, and that the picture shows it."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diafano.errors import UserError
from diafano.training.data.emoji.arrangements import PLACES, Arrangement, Place, Relation, apart
from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.scene_sampler import SceneSampler
from diafano.training.data.emoji.scenes import RenderedScene, Scene, Thing, render
from diafano.training.data.emoji.sprites import Sprites

SPRITES = Sprites.shipped()
NAMES = ("apple", "penguin", "key", "cat", "bus")
RELATIONS = ("left of", "right of", "above", "below")


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    relation: Any = draw(st.none() | st.sampled_from(RELATIONS)) if len(names) == 2 else None
    things, left = [], 4
    for waiting, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
        count = 1 if relation is not None else draw(st.integers(1, left - waiting))
        left -= count
        size: Any = draw(st.none() | st.sampled_from(["small", "big"]))
        things.append(Thing(name, count, size, draw(st.none() | st.sampled_from(sorted(TINTS)))))
    free = sorted(set(COLOURS) - {thing.tint for thing in things})
    return Scene(tuple(things), draw(st.sampled_from(free)), relation)


def picture(scene: Scene, size: int = 64, seed: int = 0, arrangement: Arrangement = "free") -> RenderedScene:
    return render(scene, SPRITES, size, np.random.default_rng(seed), arrangement=arrangement)


@settings(max_examples=300, deadline=None)
@given(scenes(), st.sampled_from([32, 64, 100, 128]), st.integers(0, 1 << 32), st.sampled_from(["free", "even"]))
def test_any_scene_is_drawn_inside_and_apart(scene: Scene, size: int, seed: int, arrangement: Arrangement) -> None:
    drawn = picture(scene, size, seed, arrangement)
    assert drawn.pixels.shape == (size, size, 3)
    assert drawn.pixels.dtype == np.uint8
    expected = [(thing.name, thing.tint) for thing in scene.things for _ in range(thing.count)]
    assert [(placement.name, placement.tint) for placement in drawn.placements] == expected
    outside = np.ones((size, size), bool)
    for i, placement in enumerate(drawn.placements):
        left, top, right, bottom = placement.box
        assert 0 <= left < right <= size
        assert 0 <= top < bottom <= size
        assert right - left == bottom - top
        outside[int(top) : int(bottom), int(left) : int(right)] = False
        for other in drawn.placements[:i]:
            apart = left >= other.box[2] or right <= other.box[0] or top >= other.box[3] or bottom <= other.box[1]
            assert apart, (placement, other)
    assert (drawn.pixels[outside] == COLOURS[scene.background]).all()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(RELATIONS), st.sampled_from([32, 64, 128]), st.integers(0, 1 << 32))
def test_a_relation_holds_strictly(relation: str, size: int, seed: int) -> None:
    drawn = picture(Scene((Thing("apple"), Thing("bus")), "red", relation), size, seed)  # type: ignore[arg-type]
    apple, bus = (placement.box for placement in drawn.placements)
    axis = 0 if relation in ("left of", "right of") else 1
    first, second = (apple, bus) if relation in ("left of", "above") else (bus, apple)
    assert first[axis + 2] <= second[axis]
    distance = [
        abs((a + b) / 2 - (c + d) / 2) for a, b, c, d in zip(apple[:2], apple[2:], bus[:2], bus[2:], strict=True)
    ]
    assert distance[1 - axis] <= 0.45 * distance[axis] + 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RELATIONS), st.sampled_from([64, 128]), st.integers(0, 1 << 32))
def test_two_big_things_still_relate(relation: str, size: int, seed: int) -> None:
    drawn = picture(Scene((Thing("apple", size="big"), Thing("bus", size="big")), "red", relation), size, seed)  # type: ignore[arg-type]
    for placement in drawn.placements:
        assert min(placement.box) >= 0
        assert max(placement.box) <= size


def test_each_sprite_is_visible_in_its_box() -> None:
    drawn = picture(Scene((Thing("penguin", 2), Thing("apple", 2, tint="blue")), "white"), 128)
    for placement in drawn.placements:
        left, top, right, bottom = (int(edge) for edge in placement.box)
        inside = drawn.pixels[top:bottom, left:right].astype(int)
        assert (np.abs(inside - COLOURS["white"]).max(-1) > 40).mean() > 0.25
        if placement.tint == "blue":
            coloured = inside[np.ptp(inside, -1) > 100]
            assert coloured[:, 2].mean() > coloured[:, 0].mean() + 100


def test_sizes_are_far_apart() -> None:
    edges = {}
    for size in ("small", None, "big"):
        boxes = [picture(Scene((Thing("cat", size=size),), "red"), 128, s).placements[0].box for s in range(40)]
        edges[size] = [box[2] - box[0] for box in boxes]
    assert max(edges["small"]) * 1.3 < min(edges[None])
    assert max(edges[None]) * 1.3 < min(edges["big"])


def test_blending_follows_alpha() -> None:
    half = Sprites({"veil": Image.new("RGBA", (72, 72), (255, 255, 255, 128))})
    drawn = render(Scene((Thing("veil"),), "black"), half, 64, np.random.default_rng(0))
    left, top, right, bottom = (int(edge) for edge in drawn.placements[0].box)
    expected = round((255 * 128 + 16 * 127) / 255)
    assert (drawn.pixels[top:bottom, left:right] == expected).all()


def test_the_same_generator_draws_the_same_picture() -> None:
    scene = Scene((Thing("cat", 2), Thing("key")), "green")
    first, second, third = picture(scene, seed=5), picture(scene, seed=5), picture(scene, seed=6)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.placements == second.placements
    assert first.placements != third.placements


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thing("cat", 0), "cannot show 0"),
        (lambda: Thing("cat", 5), "cannot show 5"),
        (lambda: Thing("cat", size=cast(Any, "huge")), "'huge'"),
        (lambda: Thing("cat", tint="mauve"), "'mauve'"),
        (lambda: Scene((), "red"), "one or two"),
        (lambda: Scene((Thing("cat"), Thing("cat")), "red"), "one or two"),
        (lambda: Scene((Thing("a"), Thing("b"), Thing("c")), "red"), "one or two"),
        (lambda: Scene((Thing("cat", 3), Thing("dog", 2)), "red"), "5 sprites"),
        (lambda: Scene((Thing("cat"),), "mauve"), "'mauve'"),
        (lambda: Scene((Thing("cat", tint="red"),), "red"), "cannot be seen"),
        (lambda: Scene((Thing("cat"),), "red", "above"), "two single things"),
        (lambda: Scene((Thing("cat", 2), Thing("dog")), "red", "above"), "two single things"),
        (lambda: Scene((Thing("cat"), Thing("dog")), "red", cast(Any, "inside")), "'inside'"),
        (lambda: picture(Scene((Thing("cat"),), "red"), 8), "8 pixels"),
        (lambda: picture(Scene((Thing("yeti"),), "red")), "'yeti'"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_snapped_scenes_stand_on_whole_cells() -> None:
    sprites, sampler = Sprites.shipped(), SceneSampler(("cat", "apple", "star", "car", "tree", "key"))
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scene = sampler.sample(rng)
        rendered = render(scene, sprites, 64, rng, snap=4)
        assert len(rendered.placements) == scene.sprite_count
        for placement in rendered.placements:
            assert all(value % 4 == 0 for value in placement.box)
            assert 0 <= placement.box[0] < placement.box[2] <= 64 and 0 <= placement.box[1] < placement.box[3] <= 64


def test_a_snap_that_does_not_fit_is_refused() -> None:
    for size, snap in ((64, 0), (64, 3), (64, 8)):
        with pytest.raises(UserError, match="multiple"):
            render(Scene((Thing("cat"),), "red"), Sprites.shipped(), size, np.random.default_rng(0), snap=snap)


def test_evenly_spread_things_stand_near_their_places() -> None:
    for seed in range(50):
        alone = picture(Scene((Thing("cat"),), "red"), 64, seed, "even").placements[0].box
        assert all(abs((low + high) / 2 - 32) <= 6 for low, high in ((alone[0], alone[2]), (alone[1], alone[3])))
        four = picture(Scene((Thing("cat", 2), Thing("key", 2)), "red"), 64, seed, "even").placements
        quarters = {(one.box[0] + one.box[2] > 64, one.box[1] + one.box[3] > 64) for one in four}
        assert len(quarters) == 4, "one in each quarter"


@pytest.mark.parametrize("relation", RELATIONS)
def test_an_even_arrangement_keeps_the_relation(relation: Relation) -> None:
    for seed in range(50):
        first, second = picture(Scene((Thing("cat"), Thing("key")), "red", relation), 64, seed, "even").placements
        axis = 0 if relation in ("left of", "right of") else 1
        distance = second.box[axis] - first.box[axis]
        assert (distance if relation in ("left of", "above") else -distance) > 16


@pytest.mark.parametrize("arrangement", ["free", "even"])
@pytest.mark.parametrize("place", PLACES)
def test_a_placed_thing_stands_in_the_half_or_quarter_that_is_named(place: Place, arrangement: Arrangement) -> None:
    for seed in range(20):
        [placement] = picture(Scene((Thing("cat", place=place),), "red"), 64, seed, arrangement).placements
        left, top, right, bottom = placement.box
        for words, last in {"left": right, "top": bottom}.items():
            if words in place:
                assert last <= 33, placement
        for words, first in {"right": left, "bottom": top}.items():
            if words in place:
                assert first >= 31, placement
        if place in ("top", "bottom") and arrangement == "even":
            assert abs(left + right - 64) <= 8


def test_two_placed_things_stand_apart_each_at_its_place() -> None:
    scene = Scene((Thing("cat", place="bottom"), Thing("key", place="top")), "red")
    for arrangement in ("free", "even"):
        cat, key = picture(scene, 64, 3, arrangement).placements
        assert key.box[3] <= cat.box[1] + 2


@pytest.mark.parametrize(
    ("things", "relation", "said"),
    [
        ((Thing("cat", place="left"), Thing("key")), None, "all things"),
        ((Thing("cat", place="left"), Thing("key", place="top")), None, "apart"),
        ((Thing("cat", place="left"), Thing("key", place="right")), "left of", "no relation"),
    ],
)
def test_places_that_cannot_be(things: tuple[Thing, ...], relation: Relation | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Scene(things, "red", relation)


def test_a_place_is_a_single_thing_s_and_one_there_is() -> None:
    with pytest.raises(UserError, match="single"):
        Thing("cat", 2, place="left")
    with pytest.raises(UserError, match="no place 'nowhere'"):
        Thing("cat", place="nowhere")  # type: ignore[arg-type]
    assert not apart("left", "top left")
    assert apart("left", "top right")
