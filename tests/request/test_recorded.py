"""What a picture says of its request, and drawing it again: pictures of our own and of other programs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diafano.cli import main as cli
from diafano.errors import Notes, UserError
from diafano.pictures.files import read_parameters, save_picture
from diafano.request.recorded import Recorded, from_infotext, with_overrides
from diafano.stable_diffusion import StableDiffusion

LINE = "Steps: 3, Sampler: {sampler}, CFG scale: 6.5, Seed: 11, Size: 64x128, Model: tiny"


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def with_text(path: Path, text: str) -> Path:
    chunks = PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    return path


# ---- our own pictures


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompt of lines": {"prompt": "two\nNegative prompt: bananas\nSteps: 1, Seed: 2, Size: 3x4", "negative": " a\n"},
    "all settings": {
        **{"sampler": "Euler a", "schedule": "karras", "eta": 0.123456789, "s_noise": 1.01, "guidance": 4 / 3},
        **{"size": (128, 64), "negative": "cat", "steps": 3},
    },
    "guidance": {"guidance": [3.0, 4 / 3], "guidance_interval": (0.25, 0.75), "guidance_rescale": 0.7},
    "churn": {"sampler": "euler", "s_churn": 3.0, "s_noise": 0.9},
    "diffusers": {"sampler": "DPM++ 2M", "like": "diffusers"},
    "a1111": {"sampler": "DDIM", "like": "a1111"},
    "a1111, CPU": {"sampler": "DPM++ 2S a", "like": "a1111", "rng": "CPU"},
    "comfyui": {"sampler": "Euler a", "like": "comfyui"},
}


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_the_request_is_read_back(tiny_model: StableDiffusion, kind: str) -> None:
    settings = {"prompt": "two bananas", "seed": 5, **SETTINGS[kind]}
    request = tiny_model.request(settings.pop("prompt"), **settings)
    recorded = from_infotext(tiny_model.draw(request)[0].info["parameters"])
    assert tiny_model.request(recorded.prompt, **recorded.settings) == request
    assert (recorded.model, recorded.ignored) == ("tiny", ())


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kind", ["prompt of lines", "all settings", "comfyui"])
def test_the_command_draws_a_picture_again(
    tiny_model: StableDiffusion,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    suffix: str,
) -> None:
    settings = {"prompt": "two bananas", "seed": 5, **SETTINGS[kind]}
    first = tmp_path / f"first.{suffix}"
    save_picture(tiny_model.generate(**{k: v for k, v in settings.items()})[0], first)
    again = tmp_path / f"again.{suffix}"
    assert run("generate", "--from", first, "--model", tiny_folder, "--output", again) == 0
    assert pixels(again) == pixels(first)
    assert read_parameters(again) == read_parameters(first)
    assert capsys.readouterr().err == ""


def test_one_picture_of_comfyuis_batch_is_drawn_again(
    tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    batch = tiny_model.generate("a fox", seed=5, count=3, sampler="Euler a", like="comfyui")
    assert "Seed: 5" in batch[2].info["parameters"] and "Batch pos: 2" in batch[2].info["parameters"]
    save_picture(batch[2], tmp_path / "first.png")
    arguments = ["generate", "--from", tmp_path / "first.png", "--model", tiny_folder, "--output"]
    assert run(*arguments, tmp_path / "again.png") == 0
    again = np.asarray(Image.open(tmp_path / "again.png")).astype(int)
    assert np.abs(again - np.asarray(batch[2])).max() <= 1
    assert np.abs(again - np.asarray(batch[0])).max() > 10
    assert run(*arguments, tmp_path / "other.png", "--seed", 6) == 0
    assert "Batch" not in (read_parameters(tmp_path / "other.png") or "")


def test_flags_override(tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    save_picture(
        tiny_model.generate("two bananas", negative="cat", seed=5, sampler="Euler a", eta=0.5, schedule="karras")[0],
        first,
    )
    arguments = ["generate", "a penguin", "--from", first, "--model", tiny_folder, "--output", again]
    assert run(*arguments, "--steps", 2, "--sampler", "heun", "--s-churn", 2, "--s-noise", 1.1, "--count", 1) == 0
    text = read_parameters(again) or ""
    assert text.startswith("a penguin\nNegative prompt: cat\nSteps: 2, Sampler: Heun, Schedule type: Uniform,")
    assert "Seed: 5" in text and "Sigma churn: 2, Sigma noise: 1.1" in text and "Eta" not in text
    assert run(*arguments, "--negative", "", "--like", "a1111", "--clip-skip", 1) == 0
    text = read_parameters(again) or ""
    assert "Negative" not in text and "Eta: 0.5" in text and "Schedule type: Karras" in text and "Like: a1111" in text


def test_what_belongs_to_a_replaced_setting_goes_with_it() -> None:
    recorded = Recorded("a", {"sampler": "euler", "schedule": "karras", "rng": "CPU", "like": "a1111"}, None, ())
    assert with_overrides(recorded, {"like": "comfyui", "seed": None}) == {
        **{"sampler": "euler", "schedule": "karras", "like": "comfyui"}
    }
    assert with_overrides(recorded, {"steps": 0})["rng"] == "CPU"


# ---- other programs' pictures


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("Sampler: DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("Sampler: DPM++ 2M SDE Exponential", ("dpmpp_2m_sde", "exponential")),
        ("Sampler: DPM++ 2M", ("dpmpp_2m", "uniform")),  # before 1.9 a name alone was k-diffusion's own grid
        ("Sampler: DPM++ 2M, Version: v1.8.0", ("dpmpp_2m", "uniform")),
        ("Sampler: DPM++ 2M, Version: v1.10.1", ("dpmpp_2m", "karras")),
        ("Sampler: DPM++ 2M, Version: f2.0.1v1.10.1-previous-659", ("dpmpp_2m", "karras")),
        ("Sampler: DPM++ 2M, Schedule type: SGM Uniform", ("dpmpp_2m", "sgm_uniform")),
        ("Sampler: DPM2 a, Schedule type: Automatic", ("dpm_2_ancestral", "karras")),
        ("Sampler: PLMS", ("pndm", "uniform")),
        ("Sampler: Euler a", ("euler_ancestral", "uniform")),
    ],
)
def test_complaint_sampler_names_that_do_not_match(
    tiny_model: StableDiffusion, notes: Notes, says: str, expected: tuple[str, str]
) -> None:
    recorded = from_infotext(f"a fox\nSteps: 3, {says}, CFG scale: 6.5, Seed: 11, Size: 64x128")
    request = tiny_model.request(recorded.prompt, **recorded.settings)
    assert (request.sampler, request.schedule) == expected
    assert (request.like, request.seed, request.size, request.guidance) == ("a1111", 11, (64, 128), 6.5)
    assert recorded.ignored == ()
    notes[:] = [note for note in notes if "the picture is not a1111's" not in note]


def test_clip_skip_rng_and_eta_are_honoured(tiny_model: StableDiffusion) -> None:
    text = "a fox\n" + LINE.format(sampler="Euler a") + ", Clip skip: 2, RNG: {}, Eta: 0.67, Sigma noise: 1.02"
    settings = from_infotext(text.format("CPU")).settings
    assert (settings["clip_skip"], settings["rng"], settings["eta"], settings["s_noise"]) == (2, "CPU", 0.67, 1.02)
    assert from_infotext(text.format("NV")).settings["rng"] == "GPU"
    assert "rng" not in from_infotext("a fox\n" + LINE.format(sampler="DDIM")).settings


def test_comfyuis_pictures_are_drawn_like_comfyui() -> None:
    assert from_infotext(f"a fox\n{LINE.format(sampler='Euler')}, Version: ComfyUI").settings["like"] == "comfyui"


def test_what_cannot_be_honoured_is_said(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_out = {
        "Model hash": "45dee52b",
        "VAE": "x.pt",
        "Denoising strength": "0.7",
        "ENSD": "31337",
        "Face restoration": "CodeFormer",
        "Lora hashes": '"detail: 12ab, two: 34cd"',
    }
    line = LINE.format(sampler="Euler").replace("tiny", "other model")
    text = f"a fox <lora:detail:0.8>\n{line}, {', '.join(f'{key}: {value}' for key, value in left_out.items())}"
    picture = with_text(tmp_path / "a.png", f"{text}, Version: v1.10.1")
    assert run("generate", "--from", picture, "--model", tiny_folder, "--output", tmp_path / "b.png") == 0
    notes = capsys.readouterr().err
    assert notes.count("diafano: note: ") == notes.count("\n") == 2
    assert "drawn by the model 'other model', not by 'tiny'" in notes
    assert "<lora:detail:0.8>" in notes
    for key in left_out.keys() - {"Model hash"}:
        assert f"{key}: " in notes
    assert (read_parameters(tmp_path / "b.png") or "").startswith("a fox \nSteps: 3, Sampler: Euler, ")


def test_samplers_and_schedules_that_are_not_known_are_said(tiny_model: StableDiffusion) -> None:
    recorded = from_infotext(f"a fox\n{LINE.format(sampler='DPM adaptive')}, Schedule type: Turbo")
    assert recorded.ignored == ("Sampler: DPM adaptive", "Schedule type: Turbo")
    assert tiny_model.request("a fox", **recorded.settings).sampler == "ddim"
    recorded = from_infotext(f"a fox\n{LINE.format(sampler='Euler')}, Schedule type: Turbo, Eta: 0.5")
    assert recorded.ignored == ("Eta: 0.5 (of another sampler)", "Schedule type: Turbo")
    assert tiny_model.request("a fox", **recorded.settings).schedule == "uniform"


def test_a_value_that_is_no_number_is_one_sentence() -> None:
    with pytest.raises(UserError, match="says Steps 'many'"):
        from_infotext("a fox\nSteps: many, Sampler: Euler, Seed: 1")
    with pytest.raises(UserError, match="holds no settings"):
        from_infotext("a fox, a banana and nothing else")


@pytest.mark.parametrize("kind", ["no settings", "other text", "no picture", "no prompt"])
def test_nothing_to_draw_again_is_one_sentence(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "a.png"
    if kind == "no settings":
        Image.new("RGB", (8, 8)).save(path)
    elif kind == "other text":
        with_text(path, "made in a hurry")
    source = [] if kind == "no prompt" else ["--from", path]
    assert run("generate", *source, "--model", tiny_folder, "--output", tmp_path / "b.png") == 2
    error = capsys.readouterr().err
    assert error.startswith("diafano: ") and error.count("\n") == 1
    assert not (tmp_path / "b.png").exists()


def test_of_an_unknown_sampler_all_is_listed() -> None:
    line = "Steps: 3, Sampler: Restart, Schedule type: Karras, Seed: 11, Size: 64x64, Eta: 0.5, ENSD: 31337"
    recorded = from_infotext(f"a cat\n{line}")
    assert set(recorded.ignored) == {"Sampler: Restart", "Schedule type: Karras", "Eta: 0.5", "ENSD: 31337"}
    assert not {"sampler", "schedule", "eta"} & recorded.settings.keys()


@pytest.mark.parametrize(
    ("said", "expected"),
    [("128x0", "128x192"), ("0x192", "128x192"), ("128x128", "128x128"), ("0x0", None)],
)
def test_an_edge_of_0_of_the_second_pass_follows_from_the_shape(said: str, expected: str | None) -> None:
    """A1111's "Resize width to" alone; "0x0" is what it writes beside a factor."""
    line = "Steps: 8, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 64x96, Denoising strength: 0.7"
    recorded = from_infotext(f"a red apple\n{line}, Hires resize: {said}, Hires upscaler: Latent")
    assert recorded.settings.get("hires_size") == expected
