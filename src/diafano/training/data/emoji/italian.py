"""Captions in Italian: the same scenes as in English, with its articles, genders, plurals and word order."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from diafano.training.data.emoji.arrangements import Place, Relation, Size
from diafano.training.data.emoji.grammar import pick, words_of
from diafano.training.data.emoji.italian_nouns import NOUNS, OTHER_NOUNS, Gender, Noun
from diafano.training.data.emoji.scenes import Scene, Thing

Forms = tuple[str, str, str, str]
"""An adjective: masculine and feminine singular, masculine and feminine plural."""


def _four(stem: str) -> Forms:
    """Rosso, rossa, rossi, rosse."""
    return f"{stem}o", f"{stem}a", f"{stem}i", f"{stem}e"


def _two(stem: str) -> Forms:
    """Verde, verde, verdi, verdi."""
    return f"{stem}e", f"{stem}e", f"{stem}i", f"{stem}i"


def _one(word: str) -> Forms:
    """Blu, always."""
    return word, word, word, word


COLOURS: dict[str, Forms] = {
    "red": _four("ross"),
    "orange": _two("arancion"),
    "yellow": _four("giall"),
    "green": _two("verd"),
    "blue": _one("blu"),
    "purple": _one("viola"),
    "pink": _one("rosa"),
    "brown": _two("marron"),
    "black": _four("ner"),
    "white": ("bianco", "bianca", "bianchi", "bianche"),
    "grey": ("grigio", "grigia", "grigi", "grigie"),
    "cyan": _four("azzurr"),
}
"""Every colour of backgrounds and tints."""
_SIZES: dict[Size, tuple[Forms, ...]] = {
    "small": (_four("piccol"),),
    "big": (_two("grand"), _two("grand"), _four("gross")),
}
_NUMBERS = {2: "due", 3: "tre", 4: "quattro"}
_PLACES: dict[Place, tuple[str, ...]] = {
    "left": ("a sinistra", "sulla sinistra", "sul lato sinistro"),
    "right": ("a destra", "sulla destra", "sul lato destro"),
    "top": ("in alto",),
    "bottom": ("in basso",),
    "top left": ("in alto a sinistra", "nell'angolo in alto a sinistra"),
    "top right": ("in alto a destra", "nell'angolo in alto a destra"),
    "bottom left": ("in basso a sinistra", "nell'angolo in basso a sinistra"),
    "bottom right": ("in basso a destra", "nell'angolo in basso a destra"),
}
_RELATIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("a sinistra di", "alla sinistra di"),
    "right of": ("a destra di", "alla destra di"),
    "above": ("sopra", "al di sopra di"),
    "below": ("sotto", "al di sotto di"),
}
_FRAMES = ("un'immagine di ", "una figura di ", "un disegno di ", "immagine di ")
_BACKGROUNDS = (
    "{scene} su sfondo {colour}",
    "{scene} su sfondo {colour}",
    "{scene} su uno sfondo {colour}",
    "{scene} con sfondo {colour}",
    "{scene}, sfondo {colour}",
    "{scene} davanti a uno sfondo {colour}",
)
_BACKGROUND_SHARE = 0.7
_OTHER_SHARE = 0.15
"""Share of things that go by another of their nouns."""


class ItalianGrammar:
    """Everyday Italian."""

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """A wording of ``scene``, in the shares of English: 70% name the background, a quarter "un'immagine di"."""
        framed = rng.random() < 0.25
        article = framed or any(thing.count > 1 for thing in scene.things) or rng.random() < 0.7
        phrases = [_phrase(thing, article, rng) for thing in scene.things]
        if scene.relation is not None:
            words = f" {pick(_RELATIONS[scene.relation], rng)} ".join(phrases)
        elif scene.places:
            words = _placed(phrases, [pick(_PLACES[place], rng) for place in scene.places], framed, rng)
        else:
            if rng.random() < 0.5:
                phrases.reverse()
            words = _joined(phrases)
        if framed:
            words = pick(_FRAMES, rng) + words
        if rng.random() < _BACKGROUND_SHARE:
            words = pick(_BACKGROUNDS, rng).format(scene=words, colour=COLOURS[scene.background][0])
        if rng.random() < 0.05:
            words = words[0].upper() + words[1:] + "."
        return words

    def canonical(self, scene: Scene) -> str:
        """For example "una piccola volpe rossa a sinistra di una banana su sfondo blu"."""
        phrases = [_phrase(thing, article=True) for thing in scene.things]
        if scene.places:
            phrases = [f"{one} {_PLACES[place][0]}" for one, place in zip(phrases, scene.places, strict=True)]
        words = _joined(phrases) if scene.relation is None else f" {_RELATIONS[scene.relation][0]} ".join(phrases)
        return f"{words} su sfondo {COLOURS[scene.background][0]}"

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(noun.singular for noun in _nouns(name))

    def vocabulary(self, objects: Iterable[str]) -> frozenset[str]:
        nouns = [noun for name in objects for noun in _nouns(name)]
        words = [form for noun in nouns for form in (noun.singular, noun.plural)]
        adjectives = [*COLOURS.values(), *(forms for kinds in _SIZES.values() for forms in kinds)]
        words += [form for forms in adjectives for form in forms]
        words += [*_NUMBERS.values(), *map(str, _NUMBERS), "un", "uno", "una", "e", "ed", *_FRAMES]
        # With the article that elides, a noun is one word to whoever splits at spaces: "un'ape".
        words += [with_article(noun.singular, noun.gender) for noun in nouns]
        for table in (_PLACES, _RELATIONS):
            words += [wording for wordings in table.values() for wording in wordings]
        words += [re.sub(r"{\w+}", "", wording) for wording in _BACKGROUNDS]
        return words_of(words)


def with_article(words: str, gender: Gender) -> str:
    """``words`` after their indefinite article: un gatto, uno squalo, una volpe, un'ape."""
    vowel = words[0].lower() in "aeiouè"
    if gender == "f":
        return f"un'{words}" if vowel else f"una {words}"
    impure = re.match(r"s[^aeiou]|z|gn|ps|pn|x|y", words.lower()) is not None
    return f"uno {words}" if impure else f"un {words}"


def _nouns(name: str) -> tuple[Noun, ...]:
    return (NOUNS[name], *OTHER_NOUNS.get(name, ()))


def _form(forms: Forms, noun: Noun, count: int) -> str:
    return forms[2 * (count > 1) + (noun.gender == "f")]


def _phrase(thing: Thing, article: bool, rng: np.random.Generator | None = None) -> str:
    """ "due piccole mele rosse"; without ``rng``, the plain wording."""
    noun = NOUNS[thing.name]
    if rng is not None and thing.name in OTHER_NOUNS and rng.random() < _OTHER_SHARE:
        noun = pick(OTHER_NOUNS[thing.name], rng)
    words = [noun.singular if thing.count == 1 else noun.plural]
    if thing.size is not None:
        kinds = _SIZES[thing.size]
        size = _form(kinds[0] if rng is None else pick(kinds, rng), noun, thing.count)
        after = rng is not None and thing.tint is None and rng.random() < 0.4  # "un gatto grande"
        words.insert(len(words) if after else 0, size)
    if thing.tint is not None:
        words.append(_form(COLOURS[thing.tint], noun, thing.count))
    if thing.count > 1:
        digits = rng is not None and rng.random() < 0.15
        return " ".join([str(thing.count) if digits else _NUMBERS[thing.count], *words])
    return with_article(" ".join(words), noun.gender) if article else " ".join(words)


def _joined(phrases: Sequence[str]) -> str:
    """ "una volpe e un gatto"; "volpe ed elefante"."""
    first, *others = phrases
    return first + "".join(f" {'ed' if other.lower().startswith('e') else 'e'} {other}" for other in others)


def _placed(phrases: list[str], places: list[str], framed: bool, rng: np.random.Generator) -> str:
    """ "una volpe a sinistra e una banana a destra", or the places first, or the things the other way round."""
    pairs = list(zip(phrases, places, strict=True))
    if rng.random() < 0.5:
        pairs.reverse()
    if not framed and rng.random() < 0.2:
        return ", ".join(f"{place} {phrase}" for phrase, place in pairs)
    return _joined([f"{phrase} {place}" for phrase, place in pairs])
