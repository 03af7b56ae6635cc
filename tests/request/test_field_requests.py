"""Requests, and pictures' texts, as reports on trackers of other programs describe them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diafano.cli.main import run
from diafano.errors import UserError, collect_notes
from diafano.pictures.files import save_picture
from diafano.request.recorded import from_infotext
from diafano.stable_diffusion import StableDiffusion

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512, Model hash: abc, Version: v1.9.0"
LARGEST = 2**64 - 1


def read(line: str, before: str = "a cat\n") -> Any:
    return from_infotext(before + line)


# ---- seeds


@pytest.mark.parametrize("like", [None, "a1111", "comfyui", "diffusers"])
def test_the_largest_seed_of_comfyui_draws(tiny_model: StableDiffusion, like: str | None) -> None:
    """numz/ComfyUI-SeedVR2_VideoUpscaler 385, invoke-ai/InvokeAI 2386."""
    settings: dict[str, Any] = {"steps": 2, "like": like}
    one, other = (tiny_model.generate("a cat", seed=seed, **settings)[0] for seed in (LARGEST, LARGEST - 1))
    assert f"Seed: {LARGEST}," in one.info["parameters"]
    assert one.tobytes() != other.tobytes()


def test_seeds_that_count_beyond_the_largest(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match=f"seed {LARGEST} and 1 more lie beyond"):
        tiny_model.request("a cat", seed=LARGEST, count=2)
    with pytest.raises(UserError, match="lie beyond"):
        tiny_model.request("a cat", seed=1, variation_seed=LARGEST, variation_strength=0.5, count=2)
    tiny_model.request("a cat", seed=LARGEST, count=2, like="comfyui")  # one generator draws for all
    tiny_model.request("a cat", seed=LARGEST, variation_seed=1, variation_strength=0.5, count=2)


def test_a_seed_of_chance_is_left_to_chance(tiny_model: StableDiffusion) -> None:
    """d8ahazard/sd_dreambooth_extension 933, whose pictures say Seed: -1."""
    with pytest.raises(UserError, match=r"seed -1 .* or leave it out for one by chance"):
        tiny_model.request("a cat", seed=-1)
    recorded = read(LINE.replace("Seed: 5", "Seed: -1") + ", Variation seed: -1, Variation seed strength: 0.2")
    assert "seed" not in recorded.settings and "variation_seed" not in recorded.settings
    assert set(recorded.ignored) == {
        "Seed: -1 (by chance)",
        "Variation seed: -1 (by chance)",
        "Variation seed strength: 0.2",
    }
    tiny_model.request(recorded.prompt, **{**recorded.settings, "size": "64x64"})


@pytest.mark.parametrize(
    ("setting", "value", "kept"),
    [
        ("seed", np.int64(5), 5),
        ("seed", np.uint64(LARGEST), LARGEST),
        ("steps", np.int32(3), 3),
        ("guidance", np.float64(7.5), 7.5),
        ("eta", np.float32(0.5), 0.5),
        ("size", (np.int64(64), np.int64(72)), (64, 72)),
    ],
)
def test_numpys_numbers_are_numbers(tiny_model: StableDiffusion, setting: str, value: Any, kept: Any) -> None:
    """stan-dev/cmdstanpy 647, automl/amltk 65: "found 76113" is no reason to refuse 76113."""
    found = getattr(tiny_model.request("a cat", **{setting: value}), setting)
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(("setting", "value"), [("steps", np.float64(3.5)), ("seed", True), ("steps", np.float64(3.0))])
def test_a_fraction_is_no_whole_number_whoever_made_it(tiny_model: StableDiffusion, setting: str, value: Any) -> None:
    with pytest.raises(UserError, match=setting):
        tiny_model.request("a cat", **{setting: value})


@pytest.mark.parametrize("said", ["64x72", "64X72", "64 \u00d7 72", "64*72"])
def test_a_size_as_people_write_it(tiny_model: StableDiffusion, said: str) -> None:
    assert tiny_model.request("a cat", size=said).size == (64, 72)


# ---- texts


def test_lines_of_windows(tiny_model: StableDiffusion) -> None:
    """google/dotprompt 256: a text that was saved or pasted on Windows."""
    recorded = read(LINE, "a cat,\r\non a mat\r\nNegative prompt: ugly\r\n")
    assert recorded.prompt == "a cat,\non a mat"
    assert recorded.settings["negative"] == "ugly"


RESOURCES = '[{"type":"checkpoint","modelVersionId":1,"name":"x, Steps: 3, Seed: 9"},{"type":"lora","weight":0.8}]'


@pytest.mark.parametrize(
    "more",
    [
        f"Civitai resources: {RESOURCES}",
        'Hashes: {"model": "abc", "lora:x": "1", "embed:y, Seed: 7": "2"}',
        f"Civitai metadata: {{}}, Civitai resources: {RESOURCES}",
    ],
)
def test_json_among_the_settings_is_one_value(more: str) -> None:
    """LykosAI/StabilityMatrix 1066, AUTOMATIC1111 12128: what stands inside is no setting."""
    recorded = read(f"{LINE}, {more}, Clip skip: 2")
    assert recorded.settings["seed"] == 5 and recorded.settings["steps"] == 20
    assert recorded.settings["clip_skip"] == 2
    assert [one.partition(":")[0] for one in recorded.ignored] == [
        name for name in ("Civitai metadata", "Civitai resources", "Hashes") if name in more
    ]


BROKEN = {
    '"x\ny"': "x\ny",
    "x\ny": "x\ny",
    '"x\n\ny, Steps: 3, Seed: 9, Size: 1x1"': "x\n\ny, Steps: 3, Seed: 9, Size: 1x1",
    '"x\nSampler: a, Seed: 9, Size: 1x1"': "x\nSampler: a, Seed: 9, Size: 1x1",
}


@pytest.mark.parametrize("value", BROKEN)
def test_a_value_of_several_lines(value: str) -> None:
    """AUTOMATIC1111 12128: the line that begins the settings ended up in the negative prompt, the seed with it."""
    recorded = read(f"{LINE}, Template: {value}, Model: m, Clip skip: 2, Hires steps: 3", "a\nNegative prompt: b\n")
    assert (recorded.prompt, recorded.settings["negative"]) == ("a", "b")
    assert (recorded.settings["seed"], recorded.settings["clip_skip"], recorded.model) == (5, 2, "m")
    assert recorded.ignored == (f"Template: {' '.join(BROKEN[value].split())}",)


def test_braces_that_are_no_json_are_letters() -> None:
    recorded = read(f"{LINE}, Style: {{a, Clip skip: 2")
    assert recorded.settings["clip_skip"] == 2
    assert recorded.ignored == ("Style: {a",)


@pytest.mark.parametrize(
    ("more", "setting", "value"),
    [
        ("Scheduler: karras", "schedule", "karras"),  # lllyasviel/Fooocus, alexopus/ComfyUI-Image-Saver 48
        ("Scheduler: normal", "schedule", "normal"),
        ("Clip skip: -2", "clip_skip", 2),  # alexopus/ComfyUI-Image-Saver 45: ComfyUI counts from the end
        ("Schedule type: Beta, Scheduler: karras", "schedule", "beta"),
    ],
)
def test_other_programs_words(more: str, setting: str, value: object) -> None:
    assert read(f"{LINE}, {more}").settings[setting] == value


@pytest.mark.parametrize(("said", "size"), [("513x515", "512x512"), ("338x563", "336x560"), ("512x512", "512x512")])
def test_a_size_is_what_was_drawn(said: str, size: str) -> None:
    """AUTOMATIC1111 3957: latents have an eighth of the edge, whatever was asked for."""
    assert read(LINE.replace("512x512", said)).settings["size"] == size


NEGATIVES = ("Steps: 3, ugly, CFG scale: 2", "b\nNegative prompt: c", "{json, Size: 1x1")


@pytest.mark.parametrize("negative", NEGATIVES)
def test_a_negative_prompt_is_text(negative: str) -> None:
    """adieyal/sd-dynamic-prompts 177, AUTOMATIC1111 12128."""
    recorded = read(LINE, f"a cat\nNegative prompt: {negative}\n")
    assert (recorded.prompt, recorded.settings["negative"]) == ("a cat", negative)
    assert recorded.settings["steps"] == 20


# ---- pictures and prompts


@pytest.mark.parametrize("size", [(3, 500), (4000, 10)])
def test_a_strip_is_not_called_by_a_size_that_nobody_gave(tiny_model: StableDiffusion, size: tuple[int, int]) -> None:
    """jquesnelle/txt2imghd 23."""
    with pytest.raises(UserError, match=f"the image of {size[0]}x{size[1]} pixels is too long and thin"):
        tiny_model.generate("a cat", image=Image.new("RGB", size), steps=1, seed=1)
    tiny_model.generate("a cat", image=Image.new("RGB", size), steps=1, seed=1, size=(64, 64))


@pytest.mark.parametrize("strength", [0.0, 0.01, 0.05])
def test_a_strength_of_no_step_gives_the_picture_back(tiny_model: StableDiffusion, strength: float) -> None:
    """huggingface/diffusers 1866 and 1867, InvokeAI 2337, ml-explore/mlx-examples 575."""
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    drawn = [
        tiny_model.generate("a cat", image=picture, strength=strength, steps=10, seed=1, sampler=sampler)[0].tobytes()
        for sampler in ("euler", "dpmpp_2m", "uni_pc")
    ]
    assert len(set(drawn)) == 1


@pytest.mark.parametrize("schedule", ["karras", "exponential", "kl_optimal", "beta", "sgm_uniform"])
def test_one_step_of_any_schedule(tiny_model: StableDiffusion, schedule: str) -> None:
    """Comfy-Org/ComfyUI 14904, mflux 494: a division by the number of steps less one."""
    for sampler in ("euler", "dpmpp_2m", "dpmpp_sde"):
        drawn = tiny_model.generate("a cat", steps=1, seed=1, schedule=schedule, sampler=sampler)[0]
        assert np.asarray(drawn).std() > 0


PROMPTS = ("(:1.2)", "((((", "))))", "(a:nan)", "(a:1e400)", ",,,,", "BREAK", "AND", "[a|b|]", "[a:b:nan]", "\\", "<>")


@pytest.mark.parametrize("like", [None, "a1111", "comfyui", "diffusers"])
def test_no_prompt_is_a_mistake(tiny_model: StableDiffusion, like: str | None) -> None:
    with collect_notes():  # some are too long for one chunk
        for prompt in (*PROMPTS, "<|endoftext|> a", "a\0b", "😀" * 40, "\n", "a" * 3000):
            drawn = tiny_model.generate(prompt, steps=2, seed=1, like=like)[0]
            assert np.asarray(drawn).std() > 0


def test_a_picture_that_says_minus_one_is_drawn_again(tiny_folder: Path, tmp_path: Path) -> None:
    text = f"a cat\n{LINE}".replace("Seed: 5", "Seed: -1").replace("512x512", "65x71").replace("Steps: 20", "Steps: 1")
    save_picture(Image.new("RGB", (64, 64)), tmp_path / "old.png", text)
    files = ["--from", str(tmp_path / "old.png"), "--output", str(tmp_path / "new.png")]
    assert run(["generate", *files, "--model", str(tiny_folder)]) == 0
    with Image.open(tmp_path / "new.png") as new:
        assert new.size == (64, 64)
