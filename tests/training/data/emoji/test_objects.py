"""The table of objects against Unicode's names, and the sprites against the table."""

import emoji
import pytest

from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.objects import OBJECTS, EmojiObject

NEW_WORDS = {
    "ball of yarn", "bee", "box of popcorn", "bunch of grapes", "car", "cherry", "chili pepper", "cup of coffee",
    "dinosaur", "flame", "flower", "ice cube", "ladybug", "loaf of bread", "log", "padlock", "piano", "sheep",
    "tennis racket", "train",
}  # fmt: skip
"""Everyday nouns that are not part of the emoji's CLDR name; all others are the name, or words of it."""


@pytest.mark.parametrize("thing", OBJECTS.values(), ids=list(OBJECTS))
def test_unicode_names_the_emoji_so(thing: EmojiObject) -> None:
    row = emoji.EMOJI_DATA.get(thing.character) or emoji.EMOJI_DATA[thing.character + "\ufe0f"]
    assert row["en"].strip(":").replace("_", " ") == thing.unicode_name


def test_nouns_are_words_of_the_unicode_name_or_listed() -> None:
    others = {t.name for t in OBJECTS.values() if not set(t.name.split()) <= set(t.unicode_name.split())}
    assert others == NEW_WORDS


def test_there_are_many_and_each_once() -> None:
    assert len(OBJECTS) >= 150
    assert len({thing.character for thing in OBJECTS.values()}) == len(OBJECTS)
    assert all(name == thing.name for name, thing in OBJECTS.items())
    assert {"penguin", "apple", "banana", "cat", "dog", "fox", "car"} <= set(OBJECTS)


def test_no_noun_is_mistaken_for_a_colour() -> None:
    assert not set(COLOURS) & {word for name in OBJECTS for word in name.split()}


def test_colours_are_far_apart() -> None:
    assert len(COLOURS) >= 12
    assert len(TINTS) >= 8
    values = list(COLOURS.values())
    distances = [max(abs(a - b) for a, b in zip(x, y, strict=True)) for x in values for y in values if x is not y]
    assert min(distances) >= 48
