"""Emoji scenes as examples."""

import numpy as np
import pytest

from diafano.errors import UserError
from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.scene_sampler import held_out_combinations
from diafano.training.data.emoji.sprites import Sprites

SPRITES = Sprites.shipped()


def test_an_example_depends_on_seed_and_index_alone() -> None:
    scenes, again = EmojiScenes(SPRITES, size=64, seed=7), EmojiScenes(Sprites.shipped(), size=64, seed=7)
    forward = [scenes.example(index) for index in range(20)]
    backward = [again.example(index) for index in reversed(range(20))][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert first.caption == second.caption
        np.testing.assert_array_equal(first.pixels, second.pixels)
    other = EmojiScenes(SPRITES, size=64, seed=8)
    assert [other.example(index).caption for index in range(20)] != [example.caption for example in forward]


def test_the_picture_is_of_the_size_asked_for() -> None:
    for size in (64, 128):
        pixels = EmojiScenes(SPRITES, size=size).example(0).pixels
        assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8


def test_described_is_the_same_example_with_its_scene() -> None:
    scenes = EmojiScenes(SPRITES, size=64)
    rendered, caption = scenes.described(3)
    assert caption == scenes.example(3).caption
    np.testing.assert_array_equal(rendered.pixels, scenes.example(3).pixels)
    assert len(rendered.placements) == rendered.scene.sprite_count


def test_held_out_scenes_are_held_out() -> None:
    held_out, training = EmojiScenes(SPRITES, size=32, held_out=True), EmojiScenes(SPRITES, size=32)
    for index in range(100):
        assert held_out_combinations(held_out.described(index)[0].scene)
        assert not held_out_combinations(training.described(index)[0].scene)


def test_objects_can_be_chosen() -> None:
    scenes = EmojiScenes(SPRITES, ["cat", "apple", "bus", "rose"], size=32)
    names = {placement.name for index in range(100) for placement in scenes.described(index)[0].placements}
    assert names == {"cat", "apple", "bus", "rose"}
    with pytest.raises(UserError, match="'yeti'"):
        EmojiScenes(SPRITES, ["cat", "yeti"])


def test_languages_take_turns_by_chance_and_show_the_same_pictures() -> None:
    english = EmojiScenes(SPRITES, size=32)
    both = EmojiScenes(SPRITES, size=32, languages=("en", "it"))
    italian = EmojiScenes(SPRITES, size=32, languages=("it",))
    backgrounds = [both.caption(index, 1) for index in range(400)]
    share = sum("sfondo" in caption for caption in backgrounds) / sum("o" in caption for caption in backgrounds)
    assert 0.25 < share < 0.45  # half of them, of which 70% name the background
    for index in range(20):
        pictures = [source.example(index).pixels for source in (english, both, italian)]
        assert all((picture == pictures[0]).all() for picture in pictures)


def test_a_caption_is_to_be_had_without_its_picture_and_in_other_words() -> None:
    scenes = EmojiScenes(SPRITES, size=32)
    assert all(scenes.caption(index) == scenes.example(index).caption for index in range(30))
    assert len({scenes.caption(3, wording) for wording in range(30)}) > 5


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed -1"):
        EmojiScenes(SPRITES, seed=-1)
