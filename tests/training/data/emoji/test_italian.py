"""Captions in Italian: every object, tint and background in right words, and nothing that is not so."""

import re

import numpy as np
import pytest

from diafano.training.data.emoji import colours
from diafano.training.data.emoji.italian import COLOURS, ItalianGrammar, with_article
from diafano.training.data.emoji.italian_nouns import NOUNS, OTHER_NOUNS, Noun
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.scene_sampler import SceneSampler
from diafano.training.data.emoji.scenes import Scene, Thing

GRAMMAR = ItalianGrammar()
ALL = {name: (NOUNS[name], *OTHER_NOUNS.get(name, ())) for name in OBJECTS}
SINGULARS = {noun.singular: (name, noun) for name, nouns in ALL.items() for noun in nouns}
PLURALS = {noun.plural: (name, noun) for name, nouns in ALL.items() for noun in nouns}
NUMBERS = {"due": 2, "tre": 3, "quattro": 4, "2": 2, "3": 3, "4": 4}
SIZES = {
    **dict.fromkeys(("piccolo", "piccola", "piccoli", "piccole"), "small"),
    **dict.fromkeys(("grande", "grandi", "grosso", "grossa", "grossi", "grosse"), "big"),
}
RELATIONS = {
    "a sinistra di": "left of", "alla sinistra di": "left of", "a destra di": "right of", "alla destra di": "right of",
    "sopra": "above", "al di sopra di": "above", "sotto": "below", "al di sotto di": "below",
}  # fmt: skip
PLACES = {
    "a sinistra": "left", "sulla sinistra": "left", "sul lato sinistro": "left",
    "a destra": "right", "sulla destra": "right", "sul lato destro": "right", "in alto": "top", "in basso": "bottom",
    **{f"{before}in {down} a {across}": f"{there} {side}" for before in ("", "nell'angolo ")
       for down, there in (("alto", "top"), ("basso", "bottom"))
       for across, side in (("sinistra", "left"), ("destra", "right"))},
}  # fmt: skip
BACKGROUND = re.compile(r"(?:,| su| su uno| con| davanti a uno) sfondo (\w+)$")
MASCULINE = {forms[0]: name for name, forms in COLOURS.items()}


def read_phrase(phrase: str) -> Thing:
    """An independent reader, for the tests."""
    article = re.match(r"(un'|un |uno |una )", phrase)
    words = phrase[article.end() :].split() if article else phrase.split()
    if article:
        assert article[1] != "un " or not re.match(r"s[^aeiou]|[zxy]|gn|ps", words[0]), phrase
    count = NUMBERS[words.pop(0)] if words[0] in NUMBERS else 1
    table = SINGULARS if count == 1 else PLURALS
    size = tint = None
    if words[0] in SIZES:
        size = SIZES[words.pop(0)]
    for end in range(len(words), 0, -1):
        if (found := table.get(" ".join(words[:end]))) is not None:
            break
    else:
        raise KeyError(phrase)
    name, noun = found
    form = 2 * (count > 1) + (noun.gender == "f")
    for word in words[end:]:
        if word in SIZES:
            size = SIZES[word]
        else:
            tint = next((tint for tint, forms in COLOURS.items() if forms[form] == word), None)
            if tint is None:
                raise KeyError(phrase)
    if article:
        assert article[1] in (("una ", "un'") if noun.gender == "f" else ("un ", "uno ")), phrase
        assert noun.gender == "m" or (article[1] == "un'") == (phrase[article.end()].lower() in "aeiou"), phrase
    return Thing(name, count, size, tint)  # type: ignore[arg-type]


def read_placed(phrase: str) -> tuple[Thing, str]:
    for words in sorted(PLACES, key=len, reverse=True):
        if phrase.endswith(f" {words}"):
            return read_phrase(phrase.removesuffix(f" {words}")), PLACES[words]
        if phrase.startswith(f"{words} "):
            return read_phrase(phrase.removeprefix(f"{words} ")), PLACES[words]
    raise KeyError(phrase)


def halves(caption: str) -> list[list[str]]:
    """All ways to take a caption apart at its commas and its "e"."""
    found = [[caption]]
    for joint in re.finditer(r", | ed? ", caption):
        found.append([caption[: joint.start()], caption[joint.end() :]])
    return found


def read(caption: str, placed: bool) -> tuple[list[tuple[Thing, str | None]], str | None, str | None]:
    if caption.endswith("."):
        caption = caption[0].lower() + caption[1:-1]
    caption = re.sub(r"^(?:un'|una |un )?(?:immagine|figura|disegno) di ", "", caption)
    background = None
    if found := BACKGROUND.search(caption):
        background, caption = MASCULINE[found[1]], caption[: found.start()]
    for words in sorted(RELATIONS, key=len, reverse=True):
        if f" {words} " in caption and not placed:
            first, second = caption.split(f" {words} ")
            return [(read_phrase(first), None), (read_phrase(second), None)], RELATIONS[words], background
    for parts in halves(caption):
        try:
            if placed:
                return [read_placed(part) for part in parts], None, background
            return [(read_phrase(part), None) for part in parts], None, background
        except KeyError:
            continue
    raise KeyError(caption)


def test_a_caption_says_what_the_scene_shows() -> None:
    rng, sampler = np.random.default_rng(1), SceneSampler()
    for _ in range(4000):
        scene = sampler.sample(rng)
        for caption in (GRAMMAR.caption(scene, rng), GRAMMAR.canonical(scene)):
            things, relation, background = read(caption, bool(scene.places))
            said = sorted((one.name, one.count, str(one.size), str(one.tint), str(place)) for one, place in things)
            shown = sorted((one.name, one.count, str(one.size), str(one.tint), str(one.place)) for one in scene.things)
            assert said == shown, caption
            assert relation == scene.relation, caption
            if relation is not None:
                assert [one.name for one, _ in things] == [one.name for one in scene.things], caption
            assert background in (None, scene.background), caption


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_has_nouns_that_are_its_own(name: str) -> None:
    for noun in ALL[name]:
        assert SINGULARS[noun.singular][0] == name, noun
        assert PLURALS[noun.plural][0] == name, noun
        # Genders that endings tell wrongly are rare enough to be listed.
        assert noun.gender == "f" or not noun.singular.split()[0].endswith("a") or noun.singular in (
            "panda", "koala", "gorilla", "lama", "pianeta", "fantasma", "lecca-lecca",
        )  # fmt: skip


@pytest.mark.parametrize("tint", colours.TINTS)
def test_every_tint_agrees(tint: str) -> None:
    masculine, feminine, *_ = COLOURS[tint]
    assert GRAMMAR.canonical(Scene((Thing("cat", tint=tint),), "grey")) == f"un gatto {masculine} su sfondo grigio"
    assert GRAMMAR.canonical(Scene((Thing("fox", tint=tint),), "grey")) == f"una volpe {feminine} su sfondo grigio"


@pytest.mark.parametrize("background", colours.COLOURS)
def test_every_background_is_masculine(background: str) -> None:
    words = GRAMMAR.canonical(Scene((Thing("bee"),), background))
    assert words == f"un'ape su sfondo {COLOURS[background][0]}"


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Scene((Thing("fox", tint="blue"),), "white"), "una volpe blu su sfondo bianco"),
        (Scene((Thing("banana", 2),), "red"), "due banane su sfondo rosso"),
        (Scene((Thing("house"), Thing("tree")), "black", "above"), "una casa sopra un albero su sfondo nero"),
        (Scene((Thing("owl", 3, "small", "red"),), "pink"), "tre piccoli gufi rossi su sfondo rosa"),
        (Scene((Thing("butterfly", 4, tint="white"),), "blue"), "quattro farfalle bianche su sfondo blu"),
        (Scene((Thing("mushroom", 2, tint="white"),), "blue"), "due funghi bianchi su sfondo blu"),
        (Scene((Thing("star", 2), Thing("key")), "grey"), "due stelle e una chiave su sfondo grigio"),
        (Scene((Thing("fox", place="top right"),), "cyan"), "una volpe in alto a destra su sfondo azzurro"),
        (Scene((Thing("clock", 2),), "red"), "due orologi su sfondo rosso"),
        (Scene((Thing("cactus", 2, "big"),), "red"), "due grandi cactus su sfondo rosso"),
        (
            Scene((Thing("dog", place="left"), Thing("sun", place="right")), "red"),
            "un cane a sinistra e un sole a destra su sfondo rosso",
        ),
    ],
)
def test_plain_wordings(scene: Scene, words: str) -> None:
    assert GRAMMAR.canonical(scene) == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gatto", "m"), "un gatto"), (("squalo", "m"), "uno squalo"), (("zaino", "m"), "uno zaino"),
        (("orso", "m"), "un orso"), (("ape", "f"), "un'ape"), (("volpe", "f"), "una volpe"),
        (("yo-yo", "m"), "uno yo-yo"), (("sole", "m"), "un sole"), (("grande ape", "f"), "una grande ape"),
        (("piccolo squalo", "m"), "un piccolo squalo"), (("stella", "f"), "una stella"),
    ],
)  # fmt: skip
def test_articles(words: tuple[str, str], said: str) -> None:
    assert with_article(words[0], words[1]) == said  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("cat", "gatti"), ("cow", "mucche"), ("mushroom", "funghi"), ("rabbit", "conigli"), ("fish", "pesci"),
        ("cherry", "ciliegie"), ("egg", "uova"), ("cup of coffee", "tazze di caffè"), ("bus", "autobus"),
        ("ghost", "fantasmi"), ("panda", "panda"), ("airplane", "aerei"), ("clock", "orologi"), ("axe", "asce"),
    ],
)  # fmt: skip
def test_plurals(name: str, many: str) -> None:
    assert NOUNS[name].plural == many


def test_wordings_vary_and_each_word_is_in_the_vocabulary() -> None:
    rng, sampler = np.random.default_rng(2), SceneSampler(("cat", "bee", "car", "cup of coffee", "elephant"))
    known = GRAMMAR.vocabulary(sampler.objects)
    wordings = set()
    for _ in range(1500):
        words = GRAMMAR.caption(sampler.sample(rng), rng).lower()
        wordings.add(words)
        assert set(re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", words)) <= known, words
    assert len(wordings) > 1000
    assert isinstance(NOUNS["cat"], Noun)
