"""Which words of a prompt no caption of scenes ever had, and what the nearest object is that there was."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from diafano.training.data.emoji.grammar import plural, words_of
from diafano.training.data.emoji.italian_nouns import NOUNS, OTHER_NOUNS
from diafano.training.data.emoji.languages import GRAMMARS, Language
from diafano.training.data.emoji.objects import OBJECTS

_NOT_WORDS = re.compile(r"<[^<>]*>|:\s*[\d.]+")
"""What a prompt's syntax has beside words: tags of LoRAs, weights."""


def unknown_words(prompt: str, objects: Sequence[str], languages: Iterable[Language]) -> list[str]:
    """The words of `prompt`, each once and in their order, that captions of scenes of these objects never have."""
    known = frozenset[str]().union(*(GRAMMARS[language]().vocabulary(objects) for language in languages))
    found = re.findall(r"[^\W_]+(?:[-'\u2019][^\W_]+)*", _NOT_WORDS.sub(" ", prompt))
    # "un'ape" is a word of the vocabulary, "a cat's" none: what stands before or after the apostrophe counts as well.
    unknown = [word for word in found if not {word.lower(), *words_of(re.split("['\u2019]", word))} & known]
    return list(dict.fromkeys(unknown))


def nearest(word: str, objects: Sequence[str], languages: Sequence[Language]) -> str | None:
    """The object of these that is nearest to what the word names, or that is spelt nearly so; None if none is near."""
    spelt = {noun: name for name in objects for language in languages for noun in GRAMMARS[language]().names(name)}
    if close := get_close_matches(word.lower(), spelt, 1, 0.75):
        return close[0]
    named = _names().get(word.lower())
    if named is None or not objects:
        return None
    # Objects stand in an order by kind: animals, food, vehicles and so on, like beside like.
    order = {name: place for place, name in enumerate(OBJECTS)}
    return min(objects, key=lambda name: abs(order[name] - order[named]))


def never_seen(prompt: str, model: str, objects: Sequence[str], languages: Sequence[Language]) -> str | None:
    """One sentence about the words that `model` has never seen; None if it has seen all."""
    unknown = unknown_words(prompt, objects, languages)
    if not unknown:
        return None
    said = []
    for word in unknown:
        near = nearest(word, objects, languages)
        said.append(f"'{word}'" + (f" (nearest: {near})" if near is not None else ""))
    seen = f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else said[0]
    return f"{model} has never seen {seen}; it knows {len(objects)} things: `diafano objects` lists them"


def _names() -> dict[str, str]:
    """Every noun of every object there is, one or many, in both languages -> the object."""
    english = GRAMMARS["en"]()
    named = {form: name for name in OBJECTS for noun in english.names(name) for form in (plural(noun), noun)}
    for name in OBJECTS:
        for noun in (*OTHER_NOUNS.get(name, ()), NOUNS[name]):
            named |= {noun.plural: name, noun.singular: name}
    return named
