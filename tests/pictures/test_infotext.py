"""Settings as A1111's text, written and read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.pictures.files import read_parameters, read_texts
from diafano.pictures.infotext import infotext, parse_infotext, program_of, unread
from diafano.request.recorded import from_infotext


def test_three_lines_in_order() -> None:
    text = infotext("an apple,\nred", "blurry", {"Steps": 50, "CFG scale": 7.0, "Size": "64x48"})
    assert text == "an apple,\nred\nNegative prompt: blurry\nSteps: 50, CFG scale: 7, Size: 64x48"


def test_an_empty_negative_prompt_has_no_line() -> None:
    assert infotext("apple", "", {"CFG scale": 7.5}) == "apple\nCFG scale: 7.5"


def test_values_that_would_break_the_line_are_quoted() -> None:
    text = infotext("apple", "", {"Model": 'a, "b": c', "Seed": 1})
    assert text == 'apple\nModel: "a, \\"b\\": c", Seed: 1'


def test_numbers_keep_all_their_digits() -> None:
    numbers = {"Steps": 8, "A1": 7.123456789, "B1": 0.1 + 0.2, "C1": 1e-7}
    assert parse_infotext(infotext("", "", numbers)).settings == {
        "Steps": "8",
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
    settings = {"Steps": "20", **settings}
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


SETTINGS = "Steps: 8, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 64x64"
NO_SETTINGS = {
    "JSON with brackets and numbers": '{"a": "(red: 1), (hot: 2), (wet: 3)"}',
    "JSON that holds A1111's text": json.dumps({"prompt": f"a fox\n{SETTINGS}"}),
    "JSON on several lines": json.dumps({"note": SETTINGS}, indent=1),
    "a list": json.dumps([SETTINGS]),
    "a prompt with colons": "portrait, camera: Canon, lens: 50mm, light: soft",
    "a prompt with weights": "(red: 1), (hot: 2), (wet: 3), (cold: 4)",
    "a known word among others": "mood: dark, Size: big, light: soft, Model: old woman",
    "one known word first": "Size: big, mood: dark, light: soft",
    "all in one line": f"a red apple {SETTINGS}",
    "a prompt that begins with a brace": "{red|blue} apple, size: big, mood: dark, light: soft",
    "YAML": "prompt: a fox\nsteps: 8\nsampler: euler\nseed: 5",
    "nothing": "",
}
HELD = {
    "alone": (SETTINGS, "", []),
    "behind a prompt": (f"a fox\n{SETTINGS}", "a fox", []),
    "a line behind": (f"a fox\n{SETTINGS}\nTemplate: a {{fox|dog}}", "a fox", ["Template: a {fox|dog}"]),
    "two lines behind": (f"a fox\n{SETTINGS}\nTemplate: a\nNegative Template: b", "a fox", None),
    "a brace": (f"{{red|blue}} fox\n{SETTINGS}", "{red|blue} fox", []),
    "another first": ("a fox\nSeed: 5, Steps: 8, Sampler: Euler", "a fox", []),
    "words between": ("a fox\nSteps: 8, fast, Seed: 5, Size: 64x64", "a fox", ["fast"]),
    "a name that is none": ("a fox\nSteps: 8, Foo (bar): 1, Seed: 5, Size: 64x64", "a fox", ["Foo (bar): 1"]),
    "a short name": ("a fox\nSteps: 8, X: 1, Seed: 5, Size: 64x64", "a fox", ["X: 1"]),
    "twice": ("a fox\nSteps: 8, Seed: 4, Seed: 5, Size: 64x64", "a fox", ["Seed: more than once"]),
    "words at the end": ("a fox\nSteps: 8, Seed: 5, Size: 64x64, done", "a fox", ["done"]),
    "two of them": (f"a fox\n{SETTINGS}\nSteps: 9, Seed: 6, Size: 64x64", f"a fox\n{SETTINGS}", []),
}


@pytest.mark.parametrize("kind", NO_SETTINGS)
def test_what_only_looks_like_settings_is_none(kind: str) -> None:
    found = parse_infotext(NO_SETTINGS[kind])
    assert not found.settings and found.prompt == NO_SETTINGS[kind]
    assert unread(NO_SETTINGS[kind]) == []


@pytest.mark.parametrize("kind", HELD)
def test_settings_are_found_and_what_is_none_is_listed(kind: str) -> None:
    text, prompt, rest = HELD[kind]
    found = parse_infotext(text)
    assert found.prompt == prompt and {"Steps", "Seed"} <= found.settings.keys()
    assert unread(text) == (["Template: a", "Negative Template: b"] if rest is None else rest)


@pytest.mark.parametrize(
    ("texts", "program"),
    [
        ({"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": "{}"}, "ComfyUI"),
        ({"prompt": '{"3": {"class_type": "KSampler"}}'}, "ComfyUI"),
        ({"invokeai_metadata": "{}"}, "InvokeAI"),
        ({"parameters": '{"sui_image_params": {"prompt": "a"}}'}, "SwarmUI"),
        ({"parameters": '{"adm_guidance": "(1.5, 0.8, 0.3)"}', "fooocus_scheme": "fooocus"}, "Fooocus"),
        ({"Comment": '{"prompt": "a", "uc": "b"}'}, "NovelAI"),
        ({"use_stable_diffusion_model": "x", "num_inference_steps": "8"}, "Easy Diffusion"),
        ({"parameters": '{"a": "(red: 1)"}'}, None),
        ({"parameters": "[" * 100_000}, None),
    ],
)
def test_other_programs_are_named(texts: dict[str, str], program: str | None) -> None:
    assert program_of(texts) == program


def test_the_cases_from_the_field() -> None:
    cases = Path(__file__).parents[1] / "cases"
    text = read_parameters(cases / "smallest_json.png")
    assert text is not None
    with pytest.raises(UserError, match=r"holds no settings of A1111's: give a picture"):
        from_infotext(text)
    assert program_of(read_texts(cases / "comfy_workflow.png")) == "ComfyUI"
    text = read_parameters(cases / "dyn_template.png")
    assert text is not None
    recorded = from_infotext(text)
    assert (recorded.prompt, recorded.settings["steps"], recorded.settings["seed"]) == ("a red apple", 8, 5)
    assert recorded.settings["negative"] == "blue"
    assert recorded.ignored == ("Template: a {red|blue} apple", "Negative Template: blue")


def test_the_command_draws_nothing_from_what_is_not_a1111s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = Path(__file__).parents[1] / "cases"
    monkeypatch.chdir(tmp_path)
    for name, sentence in (
        ("smallest_json.png", "no settings of A1111's"),
        ("comfy_workflow.png", "carries settings of ComfyUI, not of A1111"),
    ):
        assert cli.run(["generate", "--from", str(cases / name)]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
