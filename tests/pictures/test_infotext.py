"""Settings as A1111's text, written and read."""

import json

from hypothesis import given
from hypothesis import strategies as st

from diafano.pictures.infotext import infotext, parse_infotext


def test_three_lines_in_order() -> None:
    text = infotext("an apple,\nred", "blurry", {"Steps": 50, "CFG scale": 7.0, "Size": "64x48"})
    assert text == "an apple,\nred\nNegative prompt: blurry\nSteps: 50, CFG scale: 7, Size: 64x48"


def test_an_empty_negative_prompt_has_no_line() -> None:
    assert infotext("apple", "", {"CFG scale": 7.5}) == "apple\nCFG scale: 7.5"


def test_values_that_would_break_the_line_are_quoted() -> None:
    text = infotext("apple", "", {"Model": 'a, "b": c', "Seed": 1})
    assert text == 'apple\nModel: "a, \\"b\\": c", Seed: 1'


def test_numbers_keep_all_their_digits() -> None:
    assert parse_infotext(infotext("", "", {"A1": 7.123456789, "B1": 0.1 + 0.2, "C1": 1e-7})).settings == {
        "A1": "7.123456789",
        "B1": "0.30000000000000004",
        "C1": "1e-07",
    }


KEYS = st.text("Sampler CFGscale0123-/", min_size=2, max_size=20).filter(lambda key: key == key.strip(" -/"))
LINES = st.one_of(
    st.text(),
    st.sampled_from(
        ["Negative prompt: x", "Negative prompt:", "Steps: 1, Seed: 2, Size: 3x4", " ", "\n", "\r", "\x85"]
    ),
)
TEXTS = st.lists(LINES, max_size=4).map("\n".join)


@given(prompt=TEXTS, negative=TEXTS, settings=st.dictionaries(KEYS, TEXTS, min_size=3, max_size=6))
def test_whatever_is_written_is_read_back(prompt: str, negative: str, settings: dict[str, str]) -> None:
    assert parse_infotext(infotext(prompt, negative, settings)) == (prompt, negative, settings)


@given(text=TEXTS)
def test_any_text_can_be_read(text: str) -> None:
    parse_infotext(text)


def test_a_last_line_of_two_pairs_is_prompt() -> None:
    found = parse_infotext("a fox\nSteps: 20, Seed: 1")
    assert found == ("a fox\nSteps: 20, Seed: 1", "", {})
    assert parse_infotext("a fox\nSteps: 20, Seed: 1, Size: 64x64").settings["Size"] == "64x64"


def test_a1111s_example() -> None:
    """From the documentation of A1111's own parser, with values that it quotes."""
    prompt = "girl with an artist's beret, blue eyes, by Alphonse Mucha, ((eyeshadow)),\nintricate"
    negative = "ugly, fat, [blurry], (extra_limb),\nmessy drawing"
    text = (
        f"{prompt}\nNegative prompt: {negative}\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b,"
        ' Lora hashes: "one: 12ab, two: 34cd", TI hashes: "a: b\\n", Version: v1.6.0'
    )
    found = parse_infotext(text)
    assert (found.prompt, found.negative) == (prompt, negative)
    assert found.settings["Sampler"] == "Euler a" and found.settings["Version"] == "v1.6.0"
    assert found.settings["Lora hashes"] == "one: 12ab, two: 34cd" and found.settings["TI hashes"] == "a: b\n"
    assert list(found.settings)[:3] == ["Steps", "Sampler", "CFG scale"]


def test_long_lines_that_match_nothing_are_read() -> None:
    """A pattern that tries every start with every end would never come back."""
    for junk in ("a" * 300_000, 'aa:"' * 50_000, "a " * 100_000, json.dumps("x" * 10) * 30_000):
        assert parse_infotext(junk).settings.keys() <= {"aa"}
