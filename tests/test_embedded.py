"""The model that ships: its folder opens elsewhere, it draws the same picture everywhere, and it is what it says."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diafano
from diafano.families.presets import PRESETS
from diafano.stable_diffusion import StableDiffusion

PROMPT, SEED = "a penguin on a red background", 11
MIB = 2**20


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return diafano.load()


@pytest.fixture(scope="module")
def picture(model: StableDiffusion) -> np.ndarray:
    return pixels_of(model.generate(PROMPT, seed=SEED, sampler="ddim")[0])


def pixels_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def difference(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first - second).max())


def test_diffusers_opens_the_folder_and_draws_the_same_picture(model: StableDiffusion, picture: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(diafano.EMBEDDED, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            PROMPT,
            width=model.card.size[0],
            height=model.card.size[1],
            num_inference_steps=model.card.steps,
            guidance_scale=model.card.guidance,
            generator=torch.Generator("cpu").manual_seed(SEED),
            output_type="np",
        ).images[0]
    error = np.mean((drawn * 255 - picture) ** 2)
    assert 10 * np.log10(255**2 / error) >= 50, f"mean squared error {error}"


def test_a_seed_draws_the_same_picture_in_a_batch(model: StableDiffusion, picture: np.ndarray) -> None:
    batch = model.generate(PROMPT, seed=SEED - 2, count=4, sampler="ddim")
    assert difference(pixels_of(batch[2]), picture) <= 1
    assert difference(pixels_of(batch[1]), picture) > 50, "another seed, another picture"


def test_the_command_line_draws_the_same_picture_in_a_process_of_its_own(picture: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "p.png"
    options = ["--seed", str(SEED), "--sampler", "ddim", "--output", str(target)]
    command = [sys.executable, "-m", "diafano", "generate", PROMPT, *options]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "COLUMNS": "80"})
    with Image.open(target) as drawn:
        assert difference(pixels_of(drawn), picture) <= 1
        text = drawn.info["parameters"]
    assert text.startswith(f"{PROMPT}\nSteps: 50, Sampler: DDIM")
    assert f"Seed: {SEED}, Size: 64x64" in text


def test_the_penguin_is_on_red(picture: np.ndarray) -> None:
    """No judge needed: the border of the picture is red."""
    border = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    red, green, blue = np.median(border, axis=0)
    assert red > 180 and green < 90 and blue < 90


def test_the_preset_describes_what_ships(model: StableDiffusion) -> None:
    preset = PRESETS["embedded"]
    assert model.unet.config == preset.unet
    assert model.text_encoder.config == preset.text_encoder
    assert model.autoencoder.config.model_copy(update={"latent_scale": 0.18215}) == preset.autoencoder
    assert model.schedule.config == preset.schedule
    assert model.card.size == preset.size


def test_its_size_and_its_papers() -> None:
    weights = list(diafano.EMBEDDED.glob("*/*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 40 * MIB
    assert max(path.stat().st_size for path in weights) <= 16 * MIB
    card = (diafano.EMBEDDED / "README.md").read_text(encoding="utf-8")
    assert "make embedded" in card
    assert (diafano.EMBEDDED / "training" / "unet.jsonl").is_file()


def test_unknown_words_draw_something(model: StableDiffusion) -> None:
    assert model.generate("日本 zzz \U0001f9ff", seed=1, steps=2)[0].size == (64, 64)
