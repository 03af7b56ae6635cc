"""Captions: a scene put into words. English here; another language is another class with the same two methods."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from diafano.training.data.emoji.arrangements import Relation
from diafano.training.data.emoji.scenes import Scene, Thing


class Grammar(Protocol):
    """A language that scenes can be described in."""

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """One of many everyday wordings; may leave the background out, but never says what is not so."""
        ...

    def canonical(self, scene: Scene) -> str:
        """The one plain and complete wording."""
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
            words = f" {_pick(_RELATIONS[scene.relation], rng)} ".join(phrases)
        else:
            if rng.random() < 0.5:
                phrases.reverse()
            words = " and ".join(phrases)
        if framed:
            words = _pick(_FRAMES, rng) + words
        if rng.random() < _BACKGROUND_SHARE:
            words = _pick(_BACKGROUNDS, rng).format(
                scene=words, colour=scene.background, a_colour=with_article(scene.background)
            )
        if rng.random() < 0.05:
            words = words[0].upper() + words[1:] + "."
        return words

    def canonical(self, scene: Scene) -> str:
        """For example "a small red fox to the left of a banana on a blue background"."""
        phrases = [_phrase(thing, article=True) for thing in scene.things]
        joint = "and" if scene.relation is None else _RELATIONS[scene.relation][0]
        return f"{f' {joint} '.join(phrases)} on {with_article(scene.background)} background"


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
    noun = thing.name if thing.count == 1 else plural(thing.name)
    words = " ".join(word for word in (thing.size, thing.tint, noun) if word is not None)
    if thing.count > 1:
        digits = rng is not None and rng.random() < 0.15
        return f"{thing.count if digits else _NUMBERS[thing.count]} {words}"
    if rng is not None and article and rng.random() < 0.06:
        return f"one {words}"
    return with_article(words) if article else words


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.random() * len(choices))]
