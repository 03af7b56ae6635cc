"""Captions: a scene put into words. English here; other languages are other classes with the same methods."""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from diafano.training.data.emoji.arrangements import Place, Relation, Size
from diafano.training.data.emoji.colours import COLOURS, TINTS
from diafano.training.data.emoji.scenes import Scene, Thing


class Grammar(Protocol):
    """A language that scenes can be described in."""

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """One of many everyday wordings; may leave the background out, but never says what is not so."""
        ...

    def canonical(self, scene: Scene) -> str:
        """The one plain and complete wording."""
        ...

    def names(self, name: str) -> tuple[str, ...]:
        """The nouns that an object goes by, singular, the plain one first."""
        ...

    def vocabulary(self, objects: Iterable[str]) -> frozenset[str]:
        """Every word, in lower case, that captions of scenes of these objects can have."""
        ...


_NUMBERS = {2: "two", 3: "three", 4: "four"}
_IRREGULAR = {
    "bunch of grapes": "bunches of grapes",
    "ear of corn": "ears of corn",
    "loaf of bread": "loaves of bread",
    "cup of coffee": "cups of coffee",
    "box of popcorn": "boxes of popcorn",
    "ball of yarn": "balls of yarn",
    "bow and arrow": "bows and arrows",
    "mouse": "mice",
    "sheep": "sheep",
    "fish": "fish",
    "deer": "deer",
    "wolf": "wolves",
    "goose": "geese",
    "maple leaf": "maple leaves",
    "game die": "game dice",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "volcano": "volcanoes",
    "snowman": "snowmen",
    "cactus": "cacti",
}
_ALSO: dict[str, tuple[str, ...]] = {
    "airplane": ("plane",),
    "rabbit": ("bunny",),
    "bicycle": ("bike",),
    "ship": ("boat",),
    "train": ("steam train", "locomotive"),
    "flower": ("tulip",),
    "moon": ("crescent moon",),
    "clock": ("alarm clock",),
    "ball": ("soccer ball", "football"),
    "cake": ("birthday cake",),
    "doughnut": ("donut",),
    "hamburger": ("burger",),
    "television": ("TV",),
    "mobile phone": ("phone",),
    "flame": ("fire",),
    "gift": ("present",),
}
"""Object -> other nouns that it goes by."""
_ALSO_SHARE = 0.2
_SIZES: dict[Size, tuple[str, ...]] = {"small": ("small", "small", "little"), "big": ("big", "big", "large")}
_PLACES: dict[Place, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "top left": ("at the top left", "in the top left corner"),
    "top right": ("at the top right", "in the top right corner"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}
_RELATIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_FRAMES = ("a picture of ", "an image of ", "a drawing of ", "picture of ")
_BACKGROUNDS = (
    "{scene} on {a_colour} background",
    "{scene} on {a_colour} background",
    "{scene} on {colour}",
    "{scene} with {a_colour} background",
    "{scene}, {colour} background",
    "{scene} in front of {a_colour} background",
)
_BACKGROUND_SHARE = 0.7
"""Share of captions that name the background."""


class EnglishGrammar:
    """Everyday English."""

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """A wording of ``scene``: about 70% name the background, about a quarter begin "a picture of"."""
        framed = rng.random() < 0.25
        # People drop articles in short notes ("red apple on blue"), not within a sentence or beside a number.
        article = framed or any(thing.count > 1 for thing in scene.things) or rng.random() < 0.7
        phrases = [_phrase(thing, article, rng) for thing in scene.things]
        if scene.relation is not None:
            words = f" {pick(_RELATIONS[scene.relation], rng)} ".join(phrases)
        elif scene.places:
            words = _placed(phrases, [pick(_PLACES[place], rng) for place in scene.places], framed, rng)
        else:
            if rng.random() < 0.5:
                phrases.reverse()
            words = " and ".join(phrases)
        if framed:
            words = pick(_FRAMES, rng) + words
        if rng.random() < _BACKGROUND_SHARE:
            words = pick(_BACKGROUNDS, rng).format(
                scene=words, colour=scene.background, a_colour=with_article(scene.background)
            )
        if rng.random() < 0.05:
            words = words[0].upper() + words[1:] + "."
        return words

    def canonical(self, scene: Scene) -> str:
        """For example "a small red fox to the left of a banana on a blue background"."""
        phrases = [_phrase(thing, article=True) for thing in scene.things]
        if scene.places:
            phrases = [f"{one} {_PLACES[place][0]}" for one, place in zip(phrases, scene.places, strict=True)]
        joint = "and" if scene.relation is None else _RELATIONS[scene.relation][0]
        return f"{f' {joint} '.join(phrases)} on {with_article(scene.background)} background"

    def names(self, name: str) -> tuple[str, ...]:
        return (name, *_ALSO.get(name, ()))

    def vocabulary(self, objects: Iterable[str]) -> frozenset[str]:
        nouns = [noun for name in objects for noun in self.names(name)]
        words = [*nouns, *(plural(noun) for noun in nouns), *COLOURS, *TINTS, *_NUMBERS.values()]
        words += [*map(str, _NUMBERS), "a", "an", "one", "and", *_FRAMES]
        for table in (_SIZES, _PLACES, _RELATIONS):
            words += [wording for wordings in table.values() for wording in wordings]
        words += [re.sub(r"{\w+}", "", wording) for wording in _BACKGROUNDS]
        return words_of(words)


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words of these texts in lower case, without punctuation."""
    return frozenset(re.findall(r"[^\W_]+(?:[-'\u2019][^\W_]+)*", " ".join(texts).lower()))


def plural(noun: str) -> str:
    """English plural of an object's name."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou-":
        return noun[:-1] + "ies"
    return noun + "s"


def with_article(words: str) -> str:
    """``words`` with "a" or "an" before them, by sound."""
    lower = words.lower()
    silent_h = lower.startswith(("hour", "honest", "heir"))
    sounds_like_you = lower.startswith(("uni", "eu", "use", "uku"))
    vowel = silent_h or (lower[0] in "aeiou" and not sounds_like_you)
    return f"{'an' if vowel else 'a'} {words}"


def _phrase(thing: Thing, article: bool, rng: np.random.Generator | None = None) -> str:
    """ "two small red apples"; without ``rng``, the plain wording."""
    noun, size = thing.name, thing.size and _SIZES[thing.size][0]
    if rng is not None:
        if noun in _ALSO and rng.random() < _ALSO_SHARE:
            noun = pick(_ALSO[noun], rng)
        size = thing.size and pick(_SIZES[thing.size], rng)
    noun = noun if thing.count == 1 else plural(noun)
    words = " ".join(word for word in (size, thing.tint, noun) if word is not None)
    if thing.count > 1:
        digits = rng is not None and rng.random() < 0.15
        return f"{thing.count if digits else _NUMBERS[thing.count]} {words}"
    if rng is not None and article and rng.random() < 0.06:
        return f"one {words}"
    return with_article(words) if article else words


def _placed(phrases: list[str], places: list[str], framed: bool, rng: np.random.Generator) -> str:
    """ "a fox on the left and a banana on the right", or the places first, or the things the other way round."""
    pairs = list(zip(phrases, places, strict=True))
    if rng.random() < 0.5:
        pairs.reverse()
    if not framed and rng.random() < 0.2:
        return ", ".join(f"{place} {phrase}" for phrase, place in pairs)
    return " and ".join(f"{phrase} {place}" for phrase, place in pairs)


Choice = TypeVar("Choice")


def pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.random() * len(choices))]
