"""A1111's prompt syntax: what it documents, what it does with brackets that do not fit, and that nothing breaks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diafano.text_encoder.a1111_syntax import Part, Piece, at_steps, composition, weighted


def flat(text: str) -> list[tuple[str, float]]:
    (stretch,) = weighted(text)
    return [(piece.text, round(piece.weight, 6)) for piece in stretch]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("((x))", [("x", 1.21)]),
        ("[x]", [("x", 0.909091)]),
        ("(x:1.5)", [("x", 1.5)]),
        ("(x: 1.5 )", [("x", 1.5)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("([x])", [("x", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("un]bal)anced", [("un]bal)anced", 1.0)]),
        ("a [b", [("a ", 1.0), ("b", 0.909091)]),
        ("(x:y)", [("x:y", 1.1)]),
        ("(x:1.2.3)", [("x:1.2.3)", 1.1)]),
        ("x:1.2)", [("x:1.2)", 1.0)]),
        (r"\(literal\) and \[these\] and \\", [("(literal) and [these] and \\", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert flat(text) == expected


def test_break_begins_a_new_stretch_and_keeps_weights() -> None:
    assert weighted("a BREAK b") == [[Piece("a")], [Piece("b")]]
    assert weighted("(a BREAK b:1.5)") == [[Piece("a", 1.5)], [Piece("b", 1.5)]]
    assert weighted("BREAKFAST") == [[Piece("BREAKFAST")]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [b:c:0.5] d", ["a b d", "a b d", "a c d", "a c d"]),
        ("[b:c:1]", ["b", "c", "c", "c"]),
        ("[b:c:0.25]", ["b", "c", "c", "c"]),
        ("[c:3]", ["", "", "", "c"]),
        ("[b::2]", ["b", "b", "", ""]),
        ("[b:c:99]", ["b", "b", "b", "b"]),
        ("[a|b|c]", ["a", "b", "c", "a"]),
        ("[|b]", ["", "b", "", "b"]),
        ("[[a|b]:c:2]", ["a", "b", "c", "c"]),
        ("[[a:b:1]:[c|d]:0.75]", ["a", "b", "b", "d"]),
        ("[(x:1.2):y:2]", ["(x:1.2)", "(x:1.2)", "y", "y"]),
        ("([a:b:2]:1.3)", ["(a:1.3)", "(a:1.3)", "(b:1.3)", "(b:1.3)"]),
        ("[emphasis] [a:b] [a", ["[emphasis] [a:b] [a"] * 4),
        (r"\[a:b:1]", [r"\[a:b:1]"] * 4),
        ("a]b[c|d]", ["a]bc", "a]bd", "a]bc", "a]bd"]),
    ],
)
def test_texts_of_four_steps(text: str, expected: list[str]) -> None:
    assert at_steps(text, 4) == expected


def test_composition() -> None:
    assert composition("a cat:1.2") == [Part("a cat:1.2")], "without AND a number is text"
    assert composition("a cat AND a dog :0.5 AND fog:-1") == [Part("a cat"), Part(" a dog", 0.5), Part(" fog", -1.0)]
    assert composition("GRAND CANDY") == [Part("GRAND CANDY")]


SYNTAX = st.lists(st.sampled_from([*"ab ()[]:|\\.,012", "BREAK", " AND "]), max_size=60).map("".join)


@given(SYNTAX | st.text())
def test_nothing_is_an_error_and_no_word_is_lost(text: str) -> None:
    stretches = weighted(text)
    assert stretches and all(stretches)
    assert all(at_steps(part.text, 3) for part in composition(text))
    if not set(text) & set("()[]:|\\") and "BREAK" not in text:
        assert flat(text) == [(text, 1.0)]
        assert at_steps(text, 2) == [text, text]


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "[" * 900 + "a:b" + "]" * 900, "(" * 20000, "[a|" * 3000])
def test_deep_brackets_neither_break_it_nor_take_long(text: str) -> None:
    assert weighted(text)
    assert len(at_steps(text, 2)) == 2
