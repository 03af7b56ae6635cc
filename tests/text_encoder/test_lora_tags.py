"""Tags of LoRAs in prompts: A1111's way of reading them, and back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diafano.errors import UserError
from diafano.text_encoder.lora_tags import (
    LoraTag,
    lora_tags,
    read_hashes,
    unknown_tags,
    with_tag,
    without_loras,
    without_tags,
    write_hashes,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=":<>=,", exclude_categories=["Cc", "Cs"]), min_size=1)
STRENGTHS = st.floats(-100, 100, allow_nan=False)


def a1111s(prompt: str) -> tuple[str, list[tuple[str, float, float]]]:
    """A1111's extra_networks.py and extra_networks_lora.py, in short."""
    found = []

    def note(match: re.Match[str]) -> str:
        if match.group(1) == "lora":
            positional, named = [], {}
            for item in match.group(2).split(":"):
                parts = item.split("=", 2)
                if len(parts) == 2:
                    named[parts[0]] = parts[1]
                else:
                    positional.append(item)
            te = float(positional[1]) if len(positional) > 1 else 1.0
            te = float(named.get("te", te))
            unet = float(positional[2]) if len(positional) > 2 else te
            found.append((positional[0], te, float(named.get("unet", unet))))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", note, prompt), found


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox",
        "a fox <lora:style:0.8>, red",
        "<lora:style>a fox<lora:two words:1:0.25>",
        "(a <lora:style:-0.5> fox:1.2) <lora:x:te=0.2:unet=0.9>",
        "<lora:x:unet=2> < lora:y:1> <lora:z:1",
        "<lora:x:0.3:unet=0.9> <hypernet:h:1> a <b> c",
        "[<lora:a:1>:<lora:b:1e-1>:0.5]",
    ],
)
def test_tags_are_read_as_a1111_reads_them(prompt: str) -> None:
    plain, found = a1111s(prompt)
    assert without_tags(prompt) == plain
    assert [(tag.name, tag.text, tag.unet) for tag in lora_tags(prompt)] == found


@given(NAMES, STRENGTHS, STRENGTHS, st.text(), st.text())
def test_a_written_tag_is_read_back(name: str, text: float, unet: float, before: str, after: str) -> None:
    before, after = before.replace("<", "").replace(">", ""), after.replace("<", "").replace(">", "")
    tag = LoraTag(name, text, unet)
    assert lora_tags(f"{before}{tag}{after}") == [tag]
    assert without_tags(f"{before}{tag}{after}") == before + after


@given(st.text(st.sampled_from("<>:lora x1=.")))
def test_a_prompt_is_either_read_or_one_sentence(prompt: str) -> None:
    without_tags(prompt)
    try:
        lora_tags(prompt)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("tag", ["<lora:x:much>", "<lora:x:nan>", "<lora:x:1:2:3>", "<lora:x:dyn=8>", "<lora:x:101>"])
def test_a_tag_that_cannot_be_honoured_is_named(tag: str) -> None:
    with pytest.raises(UserError, match=re.escape(tag)):
        lora_tags(f"a fox {tag}")


def test_tags_are_taken_out_and_put_in() -> None:
    prompt = "a <lora:x:1> fox <lyco:y:0.5> <hypernet:z:1>"
    assert without_loras(prompt, ["x"]) == "a  fox <lyco:y:0.5> <hypernet:z:1>"
    assert without_loras(prompt, []) == prompt
    assert unknown_tags(prompt) == ["<hypernet:z:1>"]
    assert with_tag(prompt, "y", None) == prompt
    assert with_tag("a fox <lora:y:0.5>", "y", 0.25) == "a fox <lora:y:0.25>"
    assert with_tag("a fox", "y", None) == "a fox <lora:y:1>"
    with pytest.raises(UserError, match="cannot be named"):
        with_tag("a fox", "a:b", None)


def test_hashes_are_a1111s_line() -> None:
    assert write_hashes({"style": "0a1b", "a, b": "22"}) == "style: 0a1b, a b: 22"
    assert read_hashes("style: 0A1B, a b: 22, odd") == {"style": "0a1b", "a b": "22"}
    assert write_hashes({}) is None and read_hashes("") == {}
