"""Words that no caption ever had."""

import pytest

from diafano.training.data.emoji.languages import Language, languages_of
from diafano.training.data.emoji.words import nearest, never_seen, unknown_words

OBJECTS = ("cat", "dog", "lion", "elephant", "bee", "apple", "car")
BOTH: tuple[Language, ...] = ("en", "it")


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a cat on a red background", []),
        ("two small DOGS to the left of an apple.", []),
        ("un'ape gialla su sfondo blu", []),
        ("a picture of a lion in the top left corner", []),
        ("a zebra", ["zebra"]),
        ("a zebra beside a Zebra-striped (hat:1.2) <lora:ink:0.8>", ["zebra", "beside", "Zebra-striped", "hat"]),
        ("una volpe", ["volpe"]),
        ("the cat's (dog:1.3)", []),
    ],
)
def test_words_that_were_never_seen(prompt: str, unknown: list[str]) -> None:
    assert unknown_words(prompt, OBJECTS, BOTH) == unknown


def test_a_model_of_one_language_does_not_know_the_other() -> None:
    assert unknown_words("una mela", OBJECTS, ("en",)) == ["una", "mela"]
    assert languages_of(("en", "xx", "it")) == BOTH


@pytest.mark.parametrize(
    ("word", "near"),
    [("zebra", "lion"), ("elephent", "elephant"), ("tiger", "lion"), ("ant", "bee"), ("pera", "apple"),
     ("truck", "car"), ("beside", None), ("mele", "mela")],
)  # fmt: skip
def test_the_nearest_object(word: str, near: str | None) -> None:
    assert nearest(word, OBJECTS, BOTH) == near


def test_the_note_is_one_sentence() -> None:
    assert never_seen("a cat", "it", OBJECTS, BOTH) is None
    said = never_seen("a zebra beside a truck", "the embedded model", OBJECTS, BOTH)
    assert said == (
        "the embedded model has never seen 'zebra' (nearest: lion), 'beside' and 'truck' (nearest: car);"
        " it knows 7 things: `diafano objects` lists them"
    )
