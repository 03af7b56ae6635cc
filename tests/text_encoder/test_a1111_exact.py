"""Prompts read exactly as A1111 reads them: 4,036 that were read by A1111's own code, and its grammar as an oracle."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import lark
import pytest

from diafano.request.programs.table import find_program
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.a1111_syntax import BREAK, Part, Piece, a1111_pieces, at_steps, composition, weighted
from diafano.text_encoder.prompt_embedding import chunks_of
from diafano.text_encoder.prompt_reading import read_prompt

CASES = Path(__file__).parents[1] / "cases" / "a1111_prompts.jsonl.gz"

GRAMMAR = r"""
!start: (prompt | /[][():]/+)*
prompt: (emphasized | scheduled | alternate | plain | WHITESPACE)*
!emphasized: "(" prompt ")"
        | "(" prompt ":" prompt ")"
        | "[" prompt "]"
scheduled: "[" [prompt ":"] prompt ":" [WHITESPACE] NUMBER [WHITESPACE] "]"
alternate: "[" prompt ("|" [prompt])+ "]"
WHITESPACE: /\s+/
plain: /([^\\\[\]():|]|\\.)+/
%import common.SIGNED_NUMBER -> NUMBER
"""
"""What A1111 1.10 gives to lark."""


def test_all_recorded_prompts_are_read_as_a1111_reads_them() -> None:
    with gzip.open(CASES, "rt", encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines]
    assert len(cases) > 4000
    wrong = [
        case["prompt"]
        for case in cases
        if at_steps(case["prompt"], 10, exact=True) != case["first_pass"]
        or at_steps(case["prompt"], 7, 10, exact=True) != case["second_pass"]
        or [[piece.text, piece.weight] for piece in a1111_pieces(case["prompt"])] != case["weights"]
        or [[part.text, part.weight] for part in composition(case["prompt"], exact=True)] != case["composition"]
    ]
    assert wrong == []


class Oracle:
    """A1111's grammar, run by the parser that A1111 runs it by."""

    def __init__(self) -> None:
        self.parser = lark.Lark(GRAMMAR)

    def at_steps(self, text: str, steps: int) -> list[str]:
        try:
            tree = self.parser.parse(text)
        except lark.exceptions.LarkError:
            return [text] * steps
        return [self.spoken(tree, step, steps) for step in range(1, steps + 1)]

    def spoken(self, node: Any, step: int, steps: int) -> str:
        if node is None or isinstance(node, str):
            return str(node or "")
        children = node.children
        if node.data == "scheduled":
            when = float(children[3]) * (steps if "." in children[3] else 1)
            children = children[0:1] if step <= min(steps, int(when)) else children[1:2]
        elif node.data == "alternate":
            children = [children[(step - 1) % len(children)]]
        return "".join(self.spoken(child, step, steps) for child in children)


PARTS = [
    *"[]():| a1\n",
    "[a:b:1]",
    "[a|b]",
    "]:",
    "::",
    ":2]",
    "[ a]",
    "(a:b)",
    "([",
    "])",
    r"\[",
    "\\\\",
    "[:",
    "(a",
    "  1 ]",
]
"""Of which the random prompts are made: all that the grammar stumbles over, more often than anyone would write it."""


@pytest.mark.parametrize("seed", range(4))
def test_random_prompts_are_read_as_the_grammar_says(seed: int) -> None:
    chance, oracle = random.Random(seed), Oracle()
    prompts = ["".join(chance.choices(PARTS, k=chance.randint(1, 12))) for _ in range(40)]
    assert {one: at_steps(one, 2, exact=True) for one in prompts} == {one: oracle.at_steps(one, 2) for one in prompts}


PLAIN = [
    "[a:b:1]::",  # two letters behind an edit's bracket make its brackets letters; one or three do not
    "([a:b:1]):",
    "[a:b:1][(x:1.1)))a",
    "[a:b:1] | c",
    "[a:b:1] \\",
    "[a:b:1] \\\n",
    "[a:b:one]",
    "[a:(b:1]",
    "[a:b:c:1]",
    "[a:b:1e]",
]
EDITS = [
    ("[a:b:1]:", ["a:", "b:"]),
    ("[a:b:1]:::", ["a:::", "b:::"]),
    ("[a:b:+0.5]", ["a", "b"]),
    ("[a:b:5e-1]", ["b", "b"]),  # without a point it is a number of steps, 0
    ("[a:b:.5]", ["a", "b"]),
    ("[a:b: 1 ]", ["a", "b"]),
    ("[a:b:-1]", ["b", "b"]),
    ("[a:b:1e999]", ["a", "a"]),
    ("[a:b:1e0]", ["a", "b"]),
    ("[a||b]", ["a", ""]),
    (r"[a\|b|c]", [r"a\|b", "c"]),
    ("[b:1]", ["", "b"]),
    ("[(a:2):[c|d]:1]", ["(a:2)", "d"]),
    ("(a:[b|c])", ["(a:b)", "(a:c)"]),
]


@pytest.mark.parametrize(("text", "expected"), [*((text, [text] * 2) for text in PLAIN), *EDITS])
def test_edits(text: str, expected: list[str]) -> None:
    assert at_steps(text, 2, exact=True) == expected
    if "e999" not in text:  # which ends A1111 with an error
        assert Oracle().at_steps(text, 2) == expected


def test_a_long_prompt_takes_no_time() -> None:
    for text in (
        "[" * 5000 + "]" * 5000,
        "[a:b:1]:: " * 3000,
        "(x) " * 300 + "[a:b:1]::",
        "[a|" * 3000,
        "[a|b]" * 5000,
    ):
        assert len(at_steps(text, 2, exact=True)) == 2


def test_break_in_brackets_is_a_word() -> None:
    assert weighted("(a BREAK b:1.5)", exact=True) == [[Piece("a", 1.5), Piece("BREAK", -1.5), Piece("b", 1.5)]]
    assert weighted("((BREAK:-1):-1)", exact=True) == [[Piece("")], [Piece("")]], "-1 once more: it is a break again"
    assert weighted("a BREAK b", exact=True) == weighted("a BREAK b")
    assert a1111_pieces("a BREAK b") == [Piece("a"), BREAK, Piece("b")]


def test_a_number_behind_the_whole_prompt_is_its_weight() -> None:
    assert composition("a red cat:0", exact=True) == [Part("a red cat", 0.0)]
    assert composition("a red cat : -1.5 ", exact=True) == [Part("a red cat", -1.5)]


OWN = [
    ("[a:b:1] | c", ["a | c", "b | c"]),
    ("[a:b:1]::", ["a::", "b::"]),
    ("([a:b:1]):", ["(a):", "(b):"]),
    ("[a:b:+0.5]", ["a", "b"]),
]


@pytest.mark.parametrize(("text", "expected"), OWN)
def test_otherwise_edits_stay_edits(text: str, expected: list[str]) -> None:
    assert at_steps(text, 2) == expected


@pytest.mark.parametrize("like", [None, "a1111"])
def test_only_like_a1111_reads_exactly(tiny_model: StableDiffusion, like: str | None) -> None:
    weighting = find_program(like).weighting
    exact = like == "a1111"
    (part,) = read_prompt("[a:b:1] | red cat:0", tiny_model.tokenizer, weighting, 2)
    assert part.weight == (0.0 if exact else 1.0)
    assert len(part.texts) == (1 if exact else 2)
    chunks = chunks_of(tiny_model.tokenizer, "a BREAK", "a1111" if exact else "diafano")
    assert len(chunks) == (1 if exact else 2)
    breaks = len(chunks_of(tiny_model.tokenizer, "(a BREAK b:1.1)", "a1111" if exact else "diafano"))
    assert breaks == (1 if exact else 2)


def test_a_weight_of_zero_draws_the_negative_prompt(tiny_model: StableDiffusion) -> None:
    def drawn(prompt: str, **settings: Any) -> bytes:
        (picture,) = tiny_model.generate(prompt, negative="blue", like="a1111", seed=1, **settings)
        return picture.tobytes()

    assert drawn("a red cat:0") == drawn("a green dog:0")
    assert drawn("a red cat:0") != drawn("a red cat")
    assert drawn("a red cat:1.0") == drawn("a red cat")
