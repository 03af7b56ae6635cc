"""What can be asked for, and the one sentence for what cannot."""

import math
from typing import Any

import pytest

from diafano.errors import UserError, checked, collect_notes
from diafano.request.card import ModelCard
from diafano.request.request import Request, Settings
from diafano.stable_diffusion import StableDiffusion

GOOD = {
    "prompt": "an apple",
    "steps": 20,
    "guidance": 7,
    "sampler": "DPM++ 2M",
    "schedule": "Karras",
    "seed": 7,
    "size": "512x768",
}


def test_names_and_sizes_are_brought_into_one_form() -> None:
    request = checked(Request, GOOD)
    assert (request.sampler, request.schedule, request.size) == ("dpmpp_2m", "karras", (512, 768))
    assert (request.negative, request.count, request.eta) == ("", 1, None)
    assert checked(Request, {**GOOD, "size": [64, 2048]}).size == (64, 2048)  # as JSON has it
    assert checked(Request, {**GOOD, "guidance": 0}).guidance == 0.0


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("steps", 0, "from 1 to 1000"),
        ("steps", 1001, "from 1 to 1000"),
        ("steps", True, "from 1 to 1000"),
        ("steps", 2.5, "from 1 to 1000"),
        ("steps", "20", "from 1 to 1000"),
        ("guidance", math.nan, "from 0 to 100"),
        ("guidance", math.inf, "from 0 to 100"),
        ("guidance", -1.0, "from 0 to 100"),
        ("prompt", 5, "text"),
        ("prompt", None, "text"),
        ("prompt", b"apple", "text"),
        ("prompt", "apple \udcff", "Unicode"),
        ("negative", ["blurry"], "text"),
        ("sampler", "eulre", "unknown sampler 'eulre'"),
        ("schedule", "carras", "unknown schedule 'carras'"),
        ("size", (63, 512), "64 to 2048"),
        ("size", (512, 2049), "64 to 2048"),
        ("size", "512", "such as 512x512"),
        ("size", (512,), "such as 512x512"),
        ("size", (512.0, 512.0), "such as 512x512"),
        ("seed", -1, "from 0"),
        ("seed", 2**64, "from 0"),
        ("count", 0, "from 1 on"),
        ("eta", 1.5, "from 0 to 1"),
        ("clip_skip", 0, "from 1"),
        ("like", "midjourney", "no program 'midjourney'"),
        ("rng", "TPU", "rng 'TPU'"),
        ("batch_position", 1, "outside a batch of 1"),
        ("clipskip", 2, "no setting 'clipskip'"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(setting: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(Request, {**GOOD, setting: value})
    message = str(caught.value)
    assert said in message and "\n" not in message
    assert setting in message or repr(value) in message


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(UserError, match="prompt is missing"):
        checked(Request, {name: value for name, value in GOOD.items() if name != "prompt"})


def test_a_request_cannot_be_changed_after_its_check() -> None:
    with pytest.raises(ValueError, match="frozen"):
        checked(Request, GOOD).steps = 0


def test_a_card_survives_json() -> None:
    card = ModelCard(name="apples", size=(96, 64), sampler="Euler a", schedule="karras", guidance=3)
    assert checked(ModelCard, card.model_dump(mode="json")) == card
    with pytest.raises(UserError, match="name"):
        checked(ModelCard, {"name": ""})


def test_every_setting_of_a_request_can_be_given_by_name() -> None:
    assert set(Settings.__annotations__) - {"fast"} == set(Request.model_fields) - {"prompt"}


@pytest.mark.parametrize(
    ("guidance", "like", "told"),
    [(0.5, None, True), ((7, 0), None, True), (0, "a1111", True), (0.5, "diffusers", False), (1, None, False)],
)
def test_guidance_below_1_is_told(tiny_model: StableDiffusion, guidance: Any, like: str | None, told: bool) -> None:
    with collect_notes() as notes:
        tiny_model.request("a fox", guidance=guidance, like=like)
    assert any("leads away from the prompt" in said for said in notes) == told


@pytest.mark.parametrize(
    ("size", "told"),
    [((64, 64), False), ((128, 64), False), ((128, 128), False), ((160, 64), True), ((256, 256), True)],
)
def test_a_size_far_from_the_models_own_is_told(tiny_model: StableDiffusion, size: tuple[int, int], told: bool) -> None:
    assert tiny_model.card.size == (64, 64)
    with collect_notes() as notes:
        tiny_model.request("a fox", size=size)
    assert any(f"{size[0]}x{size[1]} is far from 64x64" in said for said in notes) == told


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a {red|blue} fox", "{red|blue}"),
        ("a {2$$red|green|blue} fox", "{2$$red|green|blue}"),
        ("a fox of __colour__", "__colour__"),
        ("__animals/big*__", "__animals/big*__"),
        ("a [red|blue] fox", None),  # A1111's alternation, which is carried out
        ("a {fox} __ of __2__ snake_case__names {", None),
    ],
)
@pytest.mark.parametrize("where", ["prompt", "negative"])
def test_wildcards_are_told_to_be_drawn_as_they_stand(
    tiny_model: StableDiffusion, prompt: str, named: str | None, where: str
) -> None:
    with collect_notes() as notes:
        said: Any = {"prompt": "a fox", where: prompt}
        tiny_model.request(**said)
    assert [note.split(" is drawn as it stands")[0] for note in notes] == ([] if named is None else [repr(named)])
