"""Captions: true, varied and English."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.grammar import EnglishGrammar, plural, with_article
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.scene_sampler import SceneSampler
from diafano.training.data.emoji.scenes import Scene, Thing

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4}
GRAMMAR = EnglishGrammar()
NOUNS = {noun: (name, True) for name in OBJECTS for noun in GRAMMAR.names(name)} | {
    plural(noun): (name, False) for name in OBJECTS for noun in GRAMMAR.names(name)
}
SIZES = {"small": "small", "little": "small", "big": "big", "large": "big"}
PLACES = {
    "on the left": "left", "on the left side": "left", "on the right": "right", "on the right side": "right",
    "at the top": "top", "at the bottom": "bottom",
    **{words.format(f"{down} {side}"): f"{down} {side}" for words in ("at the {}", "in the {} corner")
       for down in ("top", "bottom") for side in ("left", "right")},
}  # fmt: skip
RELATIONS = {
    "to the left of": "left of", "on the left of": "left of", "left of": "left of",
    "to the right of": "right of", "on the right of": "right of", "right of": "right of",
    "above": "above", "over": "above", "below": "below", "under": "below",
}  # fmt: skip
BACKGROUND = re.compile(
    rf"(?: on an? (?P<a>{'|'.join(COLOURS)}) background| on (?P<b>{'|'.join(COLOURS)})"
    rf"| with an? (?P<c>{'|'.join(COLOURS)}) background|, (?P<d>{'|'.join(COLOURS)}) background"
    rf"| in front of an? (?P<e>{'|'.join(COLOURS)}) background)$"
)


def read_phrase(phrase: str) -> Thing:
    """An independent reader of the grammar, for the tests."""
    count, size, tint, words = None, None, None, phrase.split()
    if words[0] in NUMBERS:
        count = NUMBERS[words.pop(0)]
    if words[0] in SIZES:
        size = SIZES[words.pop(0)]
    if words[0] in TINTS:
        tint = words.pop(0)
    name, singular = NOUNS[" ".join(words)]
    if plural(name) != name:
        assert singular == (count in (None, 1)), phrase
    return Thing(name, count or 1, size, tint)  # type: ignore[arg-type]


def read_placed(phrase: str) -> Thing:
    for words in sorted(PLACES, key=len, reverse=True):
        if phrase.endswith(f" {words}"):
            return replace(read_phrase(phrase.removesuffix(f" {words}")), place=PLACES[words])  # type: ignore[arg-type]
        if phrase.startswith(f"{words} "):
            return replace(read_phrase(phrase.removeprefix(f"{words} ")), place=PLACES[words])  # type: ignore[arg-type]
    return read_phrase(phrase)


def read(caption: str) -> tuple[list[Thing], str | None, str | None]:
    if caption.endswith("."):
        caption = caption[0].lower() + caption[1:-1] if not caption.startswith("T-") else caption[:-1]
    caption = re.sub(r"^(?:an? )?(?:picture|image|drawing) of ", "", caption)
    found = BACKGROUND.search(caption)
    background = next(colour for colour in found.groups() if colour) if found else None
    caption = BACKGROUND.sub("", caption)
    for words, relation in RELATIONS.items():
        if f" {words} " in caption:
            first, second = caption.split(f" {words} ")
            return [read_phrase(first), read_phrase(second)], relation, background
    for joint in [None, *re.finditer(" and |, ", caption)]:
        parts = [caption] if joint is None else [caption[: joint.start()], caption[joint.end() :]]
        try:
            return [read_placed(part) for part in parts], None, background
        except KeyError:
            continue
    raise KeyError(caption)


def sampled(count: int) -> list[tuple[Scene, str]]:
    rng, sampler, grammar = np.random.default_rng(1), SceneSampler(), EnglishGrammar()
    scenes = [sampler.sample(rng) for _ in range(count)]
    return [(scene, grammar.caption(scene, rng)) for scene in scenes]


def test_a_caption_says_what_the_scene_shows() -> None:
    for scene, caption in sampled(4000):
        things, relation, background = read(caption)
        assert sorted(map(repr, things)) == sorted(map(repr, scene.things)), caption
        assert relation == scene.relation, caption
        if relation is not None:
            assert tuple(things) == scene.things, caption
        assert background in (None, scene.background), caption


def test_the_plain_wording_says_everything() -> None:
    grammar = EnglishGrammar()
    for scene, _ in sampled(1000):
        assert read(grammar.canonical(scene)) == (list(scene.things), scene.relation, scene.background)


def test_seven_in_ten_captions_name_the_background() -> None:
    share = np.mean([read(caption)[2] is not None for _, caption in sampled(3000)])
    assert 0.66 < share < 0.74


def test_wordings_vary() -> None:
    rng, grammar = np.random.default_rng(0), EnglishGrammar()
    scene = Scene((Thing("apple", 2, tint="red"),), "blue")
    wordings = Counter(grammar.caption(scene, rng) for _ in range(500))
    assert len(wordings) > 25
    assert {"two red apples", "two red apples on a blue background", "2 red apples on blue"} <= set(wordings)
    single = {grammar.caption(Scene((Thing("apple"),), "blue"), rng) for _ in range(500)}
    assert {"an apple", "apple on blue", "a picture of an apple"} <= single


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Scene((Thing("penguin"),), "red"), "a penguin on a red background"),
        (Scene((Thing("apple", 2, tint="red"),), "orange"), "two red apples on an orange background"),
        (
            Scene((Thing("fox", size="small", tint="blue"), Thing("banana")), "white", "left of"),
            "a small blue fox to the left of a banana on a white background",
        ),
        (Scene((Thing("mouse", 3), Thing("ox")), "grey"), "three mice and an ox on a grey background"),
    ],
)
def test_plain_wordings(scene: Scene, words: str) -> None:
    assert EnglishGrammar().canonical(scene) == words


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("apple", "apples"), ("bus", "buses"), ("fox", "foxes"), ("torch", "torches"), ("toothbrush", "toothbrushes"),
        ("candy", "candies"), ("monkey", "monkeys"), ("yo-yo", "yo-yos"), ("wolf", "wolves"), ("sheep", "sheep"),
        ("loaf of bread", "loaves of bread"), ("tomato", "tomatoes"), ("piano", "pianos"), ("t-shirt", "t-shirts"),
    ],
)  # fmt: skip
def test_plurals(noun: str, many: str) -> None:
    assert plural(noun) == many


def test_no_two_objects_share_a_plural() -> None:
    nouns = [noun for name in OBJECTS for noun in GRAMMAR.names(name)]
    assert len(NOUNS) == 2 * len(nouns) - sum(plural(noun) == noun for noun in nouns)


@pytest.mark.parametrize(
    "words",
    [
        "an apple",
        "a unicorn",
        "an umbrella",
        "an hourglass",
        "a honey pot",
        "an ice cream",
        "an axe",
        "a T-Rex",
        "an ear",
    ],
)
def test_articles(words: str) -> None:
    assert with_article(words.split(" ", 1)[1]) == words


def test_each_word_of_a_caption_is_in_the_vocabulary() -> None:
    rng, sampler = np.random.default_rng(2), SceneSampler(("cat", "ball", "car", "cup of coffee", "t-shirt"))
    known = GRAMMAR.vocabulary(sampler.objects)
    for _ in range(1500):
        words = GRAMMAR.caption(sampler.sample(rng), rng).lower()
        assert set(re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", words)) <= known, words
    assert not {"fox", "foxes", "zebra"} & known
