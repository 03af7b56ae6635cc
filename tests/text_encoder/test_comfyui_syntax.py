"""ComfyUI's reading of a prompt, against its grammar and its cutting written down once more, letter by letter."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.comfyui_syntax import weighted
from diafano.text_encoder.prompt_embedding import chunks_of


def flat(text: str) -> list[tuple[str, float]]:
    return [(piece.text, round(piece.weight, 6)) for piece in weighted(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("((x))", [("x", 1.21)]),
        ("(x:1.5)", [("x", 1.5)]),
        ("(x: 1.5 )", [("x", 1.5)]),
        ("(x:0)", [("x", 0.0)]),
        ("(x:-1e1)", [("x", -10.0)]),
        # A number counts as it stands, whatever is around it; without one the weight around is multiplied.
        ("((x):1.1)", [("x", 1.21)]),
        ("((x:1.1))", [("x", 1.1)]),
        ("((x:1.0):0.0)", [("x", 1.0)]),
        ("a ((((b (c:666) d:100)))) e", [("a ", 1.0), ("b ", 100.0), ("c", 666.0), (" d", 100.0), (" e", 1.0)]),
        ("a ((((b (c:666) d):100))) e", [("a ", 1.0), ("b ", 110.0), ("c", 666.0), (" d", 110.0), (" e", 1.0)]),
        # What A1111 reads and ComfyUI does not.
        ("[x] [a:b:0.5] [a|b]", [("[x] [a:b:0.5] [a|b]", 1.0)]),
        ("a BREAK b AND c", [("a BREAK b AND c", 1.0)]),
        # Mistakes
        ("(unbalanced", [("(unbalanced", 1.0)]),
        ("un)bal(anced)", [("un)bal(anced)", 1.0)]),
        ("(a (b)", [("a ", 1.1), ("(b", 1.1)]),
        ("(x:y)", [("x:y", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("(x:nan) (x:inf)", [("x:nan", 1.1), (" ", 1.0), ("x:inf", 1.1)]),
        (r"\(literal\) and (\(heavy\):1.2) \\", [("(literal) and ", 1.0), ("(heavy)", 1.2), (r" \\", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert flat(text) == expected


def comfyui(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """ComfyUI's rule, by letters: items end before a "(" or behind a ")" at level 0; in brackets it is read again."""
    items, item, level = [], "", 0
    for letter in text:
        if letter == "(":
            if level == 0 and item:
                items.append(item)
                item = ""
            level += 1
            item += letter
        elif letter == ")":
            level -= 1
            item += letter
            if level == 0:
                items.append(item)
                item = ""
        else:
            item += letter
    read = []
    if item:
        items.append(item)
    for item in items:
        if not (len(item) >= 2 and item.startswith("(") and item.endswith(")")):
            read.append((item, weight))
            continue
        inside, own = item[1:-1], weight * 1.1
        colon = inside.rfind(":")
        if colon > 0:
            try:
                number = float(inside[colon + 1 :])
            except ValueError:
                pass
            else:
                if math.isfinite(number):
                    inside, own = inside[:colon], number
        read += comfyui(inside, own)
    return read


SYNTAX = st.lists(st.sampled_from([*"ab ()()()[]:|\\.,01", "BREAK", " AND ", "(a:1.3)"]), max_size=60).map("".join)


@given(SYNTAX | st.text())
def test_it_reads_what_comfyui_reads(text: str) -> None:
    hidden = text.replace("\\)", "\0\1").replace("\\(", "\0\2")
    shown = [(words.replace("\0\1", ")").replace("\0\2", "("), weight) for words, weight in comfyui(hidden)]
    assert [(piece.text, piece.weight) for piece in weighted(text)] == (shown or [("", 1.0)])


@given(SYNTAX)
def test_no_word_is_lost(text: str) -> None:
    words = "".join(piece.text for piece in weighted(text))
    assert [letter for letter in words if letter in "ab"] == [letter for letter in text if letter in "ab"]


@pytest.mark.parametrize("text", ["(" * 20000, "(" * 5000 + "a" + ")" * 5000, "(a:1)" * 9000, ")" * 20000])
def test_deep_brackets_neither_break_it_nor_take_long(text: str) -> None:
    assert weighted(text)


# ---- chunks


def packed(groups: list[int], room: int = 75) -> list[list[int]]:
    """ComfyUI's packing of groups of so many tokens, token by token: which group's tokens each chunk holds."""
    chunks: list[list[int]] = [[]]
    for number, size in enumerate(groups):
        left = size
        while left:
            free = room - len(chunks[-1])
            if left <= free:
                chunks[-1] += [number] * left
                break
            if size >= 8:
                chunks[-1] += [number] * free
                left -= free
            chunks.append([])
    return chunks


@given(st.lists(st.integers(1, 12) | st.integers(60, 160), max_size=25))
def test_chunks_are_packed_as_comfyui_packs_them(tiny_model: StableDiffusion, groups: list[int]) -> None:
    # Digits are a token each; the weight tells which group a token is of.
    text = "".join(f"({'7' * size}:{number + 2})" for number, size in enumerate(groups))
    chunks = chunks_of(tiny_model.tokenizer, text, "comfyui")
    held = [[int(weight) - 2 for weight in chunk.weights if weight != 1.0] for chunk in chunks]
    assert held == packed(groups)
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for chunk in chunks)


def test_the_profile_reads_as_comfyui_does(tiny_model: StableDiffusion) -> None:
    """Complaint: the same prompt means something else in another program."""

    def first(prompt: str, like: str) -> object:
        plan = tiny_model.plan(tiny_model.request(prompt, like=like, seed=1))
        (one, *_) = tiny_model.prompts_of(plan, plan.passes[0])
        return one.positive[0][0].tokens.tolist()

    assert first("a [penguin] BREAK 1", "comfyui") == first("a [penguin] break 1", "comfyui")
    assert first("a [penguin] BREAK 1", "a1111") != first("a [penguin] break 1", "a1111")
    assert first("a ((penguin:1.5))", "comfyui") == first("a (penguin:1.5)", "comfyui")
    assert first("a ((penguin:1.5))", "a1111") != first("a (penguin:1.5)", "a1111")
