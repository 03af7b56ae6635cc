"""The high-resolution pass: it is image-to-image from what the first pass has drawn, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.explain.filmstrip import Filmstrip
from diafano.pictures.files import read_parameters
from diafano.pictures.pixels import to_picture, to_pixels
from diafano.request.programs.table import find_program
from diafano.request.recorded import from_infotext
from diafano.sampling.init_image import InitImage
from diafano.sampling.samplers.table import find_sampler
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.a1111_syntax import at_steps

PLAIN: dict[str, Any] = {"seed": 3, "steps": 4, "sampler": "euler_ancestral"}
LIKE = [None, "diffusers", "a1111", "comfyui"]


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def draw(model: StableDiffusion, prompt: str = "a fox", **settings: Any) -> Image.Image:
    return model.generate(prompt, **{**PLAIN, **settings})[0]


@torch.inference_mode()
def latent_of_first(model: StableDiffusion, **settings: Any) -> torch.Tensor:
    request = model.request("a fox", **{**PLAIN, **settings})
    plan = model.plan(request)
    (one,) = plan.passes
    return model.denoise(one, model.prompts_of(plan, one), model.noise(one, range(1)))


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize("upscaler", ["Latent", "Latent (nearest-exact)", "Lanczos"])
def test_the_second_pass_is_image_to_image(tiny_model: StableDiffusion, like: str | None, upscaler: str) -> None:
    settings: Any = {"like": like, "hires_strength": 0.5, "hires_steps": 3, "hires_upscaler": upscaler}
    drawn = draw(tiny_model, hires=2.0, **settings)
    assert drawn.size == (128, 128)
    latent = latent_of_first(tiny_model, like=like)
    if upscaler == "Lanczos":
        picture = to_picture(next(tiny_model.decode(latent))).resize((128, 128), Image.Resampling.LANCZOS)
        start = tiny_model.autoencoder.encode(to_pixels(picture)[None]).mean.detach()
    else:
        mode = "bilinear" if upscaler == "Latent" else "nearest-exact"
        start = torch.nn.functional.interpolate(latent, scale_factor=2, mode=mode)
    steps, strength = 3, 0.5
    if like == "a1111":  # its second pass runs all its steps: the last three of six
        steps, strength = 6, 1 / 3 + 1e-6  # of which image-to-image runs a third and one
    second = tiny_model.request(
        "a fox", **{**PLAIN, "like": like, "steps": steps, "strength": strength}, size="128x128"
    )
    expected = tiny_model.draw(second, start=InitImage(start))[0]
    assert np.abs(values(drawn) - values(expected)).max() <= 1


def test_a1111s_second_pass_runs_all_its_steps(tiny_model: StableDiffusion) -> None:
    request = tiny_model.request("a fox", **PLAIN, like="a1111", hires=2.0, hires_steps=6, hires_strength=0.4)
    plan = tiny_model.plan(request)
    first, second = plan.passes
    whole = find_program("a1111").grid(find_sampler("euler_ancestral"), "uniform", tiny_model.schedule, 15)
    assert second.run.sigmas == whole[-7:]
    assert len(first.run.sigmas) == 5 and plan.steps == 10
    assert second.noise.seed == first.noise.seed  # and so the same noise, at the larger size


def test_strength_zero_is_the_first_picture_enlarged(tiny_model: StableDiffusion) -> None:
    latent = torch.nn.functional.interpolate(latent_of_first(tiny_model), scale_factor=2, mode="nearest")
    with torch.inference_mode():
        expected = to_picture(next(tiny_model.decode(latent)))
    drawn = draw(tiny_model, hires=2.0, hires_strength=0.0, hires_upscaler="latent-nearest")
    assert np.abs(values(drawn) - values(expected)).max() <= 1


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (bicubic antialiased)", "Latent (nearest)"])
def test_by_a_factor_of_one_at_strength_zero_nothing_changes(tiny_model: StableDiffusion, upscaler: str) -> None:
    drawn = draw(tiny_model, hires=1.0, hires_strength=0.0, hires_upscaler=upscaler)
    assert np.abs(values(drawn) - values(draw(tiny_model))).max() <= 1


def test_strength_one_is_text_to_image_at_the_larger_size(tiny_model: StableDiffusion) -> None:
    drawn = draw(tiny_model, hires_size="96x128", hires_strength=1.0)
    assert np.abs(values(drawn) - values(draw(tiny_model, size="96x128"))).max() <= 1


def test_steps_are_counted_through_both_passes(tiny_model: StableDiffusion) -> None:
    request = tiny_model.request("a fox", **PLAIN, hires=1.5, hires_steps=6, hires_strength=0.5, count=2)
    seen: list[tuple[int, torch.Size]] = []
    strip = Filmstrip(tiny_model, tiny_model.plan(request).steps, frames=3)

    def on_step(step: int, sigma: float, noisy: torch.Tensor, clean: torch.Tensor) -> None:
        seen.append((step, noisy.shape))
        strip(step, sigma, noisy, clean)

    drawn = tiny_model.draw(request, on_step)
    assert [picture.size for picture in drawn] == [(96, 96)] * 2
    assert [step for step, _ in seen] == list(range(tiny_model.plan(request).steps)) == list(range(7))
    assert [shape[-1] for _, shape in seen] == [8] * 4 + [12] * 3
    assert strip.picture().size == (3 * 96 + 4, 2 * 96 + 2)


def test_a_batch_draws_what_each_alone_does(tiny_model: StableDiffusion) -> None:
    settings = {**PLAIN, "hires": 2.0, "hires_upscaler": "Lanczos"}
    batch = tiny_model.generate("a fox", **{**settings, "seed": 2}, count=3)
    assert np.abs(values(batch[1]) - values(tiny_model.generate("a fox", **settings)[0])).max() <= 1


def test_prompt_edits_go_on_in_the_second_pass(tiny_model: StableDiffusion) -> None:
    assert at_steps("[a:b:0.5]", 4) == ["a", "a", "b", "b"] and at_steps("[a:b:0.5]", 4, before=4) == ["b"] * 4
    assert at_steps("[a:b:1.5]", 4) == ["a"] * 4 and at_steps("[a:b:1.5]", 4, before=6) == ["a", "a", "b", "b"]
    assert at_steps("[a:b:7]", 4, before=6) == ["a", "b", "b", "b"]
    assert at_steps("[a|b]", 3, before=5) == ["a", "b", "a"]
    drawn = draw(tiny_model, "[a fox:a cat:1.0]", hires=2.0, like="a1111")
    assert np.abs(values(drawn) - values(draw(tiny_model, "a fox", hires=2.0, like="a1111"))).max() > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"hires": 1.5, "hires_strength": 0.6, "hires_steps": 3},
        {"hires_size": (64, 128), "hires_upscaler": "Latent (nearest-exact)", "like": "a1111"},
        {"hires": 2.0, "hires_upscaler": "Lanczos", "variation_seed": 5, "variation_strength": 0.25},
    ],
)
def test_the_second_pass_is_recorded_and_drawn_again(
    tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    drawn = draw(tiny_model, **settings)
    recorded = from_infotext(drawn.info["parameters"])
    assert tiny_model.request(recorded.prompt, **recorded.settings) == tiny_model.request("a fox", **PLAIN, **settings)
    drawn.save(tmp_path / "first.png")
    again = str(tmp_path / "again.png")
    command = ["generate", "--from", str(tmp_path / "first.png"), "--model", str(tiny_folder), "--output", again]
    assert cli.run(command) == 0
    with Image.open(again) as picture:
        assert (values(picture) == values(drawn)).all()
    assert read_parameters(again) == drawn.info["parameters"]


def test_a1111s_second_pass_is_understood(tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path) -> None:
    line = "Steps: 4, Sampler: Euler a, CFG scale: 6, Seed: 1, Size: 64x64, Denoising strength: 0.4"
    recorded = from_infotext(f"a fox\n{line}, Hires upscale: 2, Hires steps: 0, Hires upscaler: R-ESRGAN 4x+")
    assert recorded.ignored == ("Hires upscaler: R-ESRGAN 4x+ (Lanczos instead)",)
    request = tiny_model.request(recorded.prompt, **recorded.settings)
    _, second = tiny_model.plan(request).passes
    assert (request.strength, request.hires_strength, second.size, request.steps) == (None, 0.4, (128, 128), 4)
    assert request.hires_upscaler == "Lanczos"
    command = ["generate", "a fox", "--model", str(tiny_folder), "--seed", "1", "--output", str(tmp_path / "a.png")]
    said = ["--hires", "2", "--hires-steps", "3", "--hires-strength", "0.5", "--hires-upscaler", "latent-bicubic"]
    assert cli.run([*command, *said]) == 0
    text = read_parameters(tmp_path / "a.png") or ""
    expected = "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 3, Hires upscaler: Latent (bicubic)"
    assert expected in text and "Size: 64x64" in text
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (128, 128)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hires": 0.5}, "from 1 to 32"),
        ({"hires": 2.0, "hires_steps": 0}, "from 1 to 1000"),
        ({"hires": 32.0, "size": "128x64"}, "too large"),
        ({"hires": 2.0, "hires_size": "128x128"}, "leave one of them out"),
        ({"hires_size": "100x128"}, "multiples of 8"),
        ({"hires_steps": 5, "hires_strength": 0.5}, "hires_steps, hires_strength: that is for a second pass"),
        ({"hires": 2.0, "hires_strength": 1.5}, "a number from 0 to 1"),
        ({"hires": 2.0, "hires_upscaler": "ESRGAN"}, "unknown upscaler 'ESRGAN'"),
        ({"hires": 2.0, "image": Image.new("RGB", (64, 64))}, "follows a picture drawn from text"),
    ],
)
def test_what_cannot_be_is_one_sentence(tiny_model: StableDiffusion, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        draw(tiny_model, **settings)
