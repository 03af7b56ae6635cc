"""How a prompt is read, as people are told, in Python and by `diafano tokens`."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diafano.cli import main as cli
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.prompt_embedding import Weighting, chunks_of
from diafano.text_encoder.prompt_reading import chunk_sentence, count_sentence, read_prompt, steps_sentence
from diafano.text_encoder.spelling import words

WEIGHTINGS: list[Weighting | None] = ["a1111", "comfyui", None]
TEXT = st.lists(st.sampled_from([*"ab12 ()[]:|", "BREAK", " AND ", "1 2 3 4 5 6 7 8 9, "]), max_size=60).map("".join)


@given(TEXT | st.text(), st.sampled_from(WEIGHTINGS), st.integers(1, 9))
def test_every_step_has_one_text_and_no_token_is_lost(
    tiny_model: StableDiffusion, prompt: str, weighting: Weighting | None, steps: int
) -> None:
    tokenizer = tiny_model.tokenizer
    for part in read_prompt(prompt, tokenizer, weighting, steps):
        assert sorted(step for text in part.texts for step in text.steps) == list(range(1, steps + 1))
        for text in part.texts:
            ids = [token.id for chunk in text.chunks for token in chunk]
            if weighting is None:
                assert ids + tokenizer.encode(text.cut) == tokenizer.encode(prompt)
            else:
                own = [id_ for chunk in chunks_of(tokenizer, text.text, weighting) for id_ in chunk.ids]
                assert len(own) == 77 * len(text.chunks) and text.cut == ""
                special = {tokenizer.start_token, tokenizer.end_token}
                assert ids == [id_ for id_ in own if id_ not in special]


def read(model: StableDiffusion, prompt: str, weighting: Weighting | None = "a1111", steps: int = 4) -> list[str]:
    tokenizer = model.tokenizer
    return [
        f"{part.weight:g} {steps_sentence(text.steps)}: "
        + " / ".join(chunk_sentence(tokenizer, chunk) for chunk in text.chunks)
        for part in read_prompt(prompt, tokenizer, weighting, steps)
        for text in part.texts
    ]


def test_what_a1111_reads(tiny_model: StableDiffusion) -> None:
    assert read(tiny_model, "a (blue:1.3) [fox] BREAK a cat AND two :0.5") == [
        "1 steps 1 to 4: a (blue:1.3) (fox:0.9091) / a cat",
        "0.5 steps 1 to 4: two",
    ]
    assert read(tiny_model, "[a:two:0.5] fox") == ["1 steps 1 to 2: a fox", "1 steps 3 to 4: two fox"]
    assert read(tiny_model, "[a|two|red]", steps=13) == [
        "1 steps 1, 4, 7, ... (5): a",
        "1 steps 2, 5, 8, ... (4): two",
        "1 steps 3, 6, 9, ... (4): red",
    ]


def test_what_the_others_read(tiny_model: StableDiffusion) -> None:
    assert read(tiny_model, "a (blue:1.3) [1|2]", "comfyui") == ["1 steps 1 to 4: a (blue:1.3) [ 1 | 2 ]"]
    assert read(tiny_model, "a (1:2)", None) == ["1 steps 1 to 4: a ( 1 : 2 )"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [((3,), "step 3"), ((2, 3), "steps 2 to 3"), ((1, 3), "steps 1, 3"), ((1, 3, 5, 7), "steps 1, 3, 5, ... (4)")],
)
def test_steps_in_words(steps: tuple[int, ...], expected: str) -> None:
    assert steps_sentence(steps) == expected


def test_counts(tiny_model: StableDiffusion) -> None:
    def count(prompt: str) -> str:
        return count_sentence(read_prompt(prompt, tiny_model.tokenizer, "a1111", 4))

    assert count("penguin") == "1 token in 1 chunk"
    assert count("1 " * 180) == "180 tokens in 3 chunks"
    assert count("[1: 1 2 3:0.5] AND 1 BREAK 2") == "3 tokens in 1 chunk AND 2 tokens in 2 chunks"


def test_words_show_their_tokens(tiny_model: StableDiffusion) -> None:
    tokenizer = tiny_model.tokenizer

    def shown(text: str) -> list[str]:
        return words(tokenizer, tokenizer.encode(text))

    assert shown("two bananas") == ["two", "bananas"]
    assert shown("xy é") == ["x·y", "é"]
    assert shown("🍎!") == ["🍎·!"]
    assert words(tokenizer, [tokenizer.start_token]) == ["<|startoftext|>"]


def test_added_words_are_words(tiny_model: StableDiffusion) -> None:
    tokenizer = copy.deepcopy(tiny_model.tokenizer)
    tokenizer.added.add("my-style", [9000, 9001, 9002])
    assert words(tokenizer, tokenizer.encode("a my-style 1")) == ["a", "my-style·+·+", "1"]
    assert tokenizer.text_cut("1 " * 73 + "My-Style, a Penguin") == "My-Style, a Penguin"
    assert tokenizer.text_cut("1 " * 71 + "My-Style 2 Penguin") == "Penguin"


# ---- the command


def test_the_command_shows_the_reading(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "[a:two:0.25] (fox:1.2) AND fog :0.5"
    assert cli.run(["tokens", prompt, "--model", str(tiny_folder), "--steps", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "prompt 1 of 2, weight 1\nsteps 1 to 2 of 8: a (fox:1.2)\n  chunk 1, 2 of 75 tokens: a (fox:1.2)\nsteps 3 to 8"
    )
    assert "prompt 2 of 2, weight 0.5\n  chunk 1, " in out


def test_the_command_says_what_is_cut(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "1 " * 75 + "a Penguin"
    assert cli.run(["tokens", prompt, "--model", str(tiny_folder), "--like", "diffusers"]) == 0
    assert "left out, because 75 tokens fit: a Penguin\n" in capsys.readouterr().out


def test_the_command_speaks_json(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tokens", "a (fox:2)", "--model", str(tiny_folder), "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)
    ((_, fox),) = part["texts"][0]["chunks"]
    assert (fox["token"], fox["weight"]) == ("fox</w>", 2.0)


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--like", "paint"], ["--model", "nowhere"]])
def test_a_wrong_value_is_one_sentence(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tokens", "a fox", *wrong]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("diafano: ") and error.count("\n") == 1


def test_complaint_the_limit_of_77_tokens_cuts_in_silence(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is cut, and a prompt of several chunks is told; where a program cuts, the words it cuts are told."""
    generate = ["generate", "1 " * 80 + "Penguin", "--model", str(tiny_folder), "--output", str(tmp_path / "a.png")]
    assert cli.run(generate) == 0
    assert "prompt: 81 tokens in 2 chunks\n" in capsys.readouterr().err
    assert cli.run([*generate, "--like", "diffusers"]) == 0
    error = capsys.readouterr().err
    assert "diafano: note: the last 6 tokens of the prompt are left out, because 75 fit: '1 1 1 1 1 Penguin'" in error
    assert cli.run(["generate", "a fox", *generate[2:]]) == 0
    assert "token" not in capsys.readouterr().err
