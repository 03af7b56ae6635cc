"""A request becomes pictures: seeds, batches, settings, what goes along and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diafano.engine import tiles
from diafano.errors import UserError
from diafano.networks.unet import UNet
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from helpers import told


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def difference(one: Image.Image, other: Image.Image) -> int:
    """Largest, per channel, out of 255."""
    return int(np.abs(levels(one) - levels(other)).max())


# ---- seeds


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler_ancestral", "dpmpp_2m"])
def test_a_seed_draws_the_same_picture_alone_and_in_a_batch(tiny_model: StableDiffusion, sampler: str) -> None:
    together = tiny_model.generate("two bananas", seed=5, count=4, sampler=sampler)
    assert len(together) == 4
    for i, picture in enumerate(together):
        alone = tiny_model.generate("two bananas", seed=5 + i, sampler=sampler)[0]
        assert difference(picture, alone) <= 1
    assert difference(together[0], together[1]) > 10


def test_a_large_request_is_drawn_in_several_batches(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = tiny_model.generate("two bananas", seed=5, count=5)
    monkeypatch.setattr("diafano.request.plan.BATCH_PIXELS", 2 * 64 * 64)
    monkeypatch.setattr(tiles, "DECODED_PIXELS", 64 * 64)
    assert tiny_model.plan(tiny_model.request("x", seed=5, count=5)).batches == [range(0, 2), range(2, 4), range(4, 5)]
    calls = []
    in_turn = tiny_model.generate("two bananas", seed=5, count=5, on_step=lambda step, *rest: calls.append(step))
    assert calls == [0, 1, 2, 3] * 3
    for one, other in zip(at_once, in_turn, strict=True):
        assert difference(one, other) <= 1


def test_start_noise_is_what_the_cpu_generator_draws(tiny_model: StableDiffusion) -> None:
    seen = []
    tiny_model.generate("a fox", seed=11, size=(64, 128), on_step=lambda step, sigma, noisy, clean: seen.append(noisy))
    expected = torch.randn((1, 4, 16, 8), generator=torch.Generator("cpu").manual_seed(11))
    sigma = tiny_model.schedule.sigma_of(751)  # the first of 4 leading steps, with offset 1
    torch.testing.assert_close(seen[0], expected * (1 + sigma**2) ** 0.5)


def test_another_process_draws_the_same_picture_from_the_saved_model(
    tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, diafano\n"
        "model = diafano.load(sys.argv[1], device='cpu')\n"
        "model.generate('a penguin', negative='cat', seed=3)[0].save(sys.argv[2])\n"
    )
    target = tmp_path / "other.png"
    subprocess.run([sys.executable, "-c", program, str(tiny_folder), str(target)], check=True)
    assert difference(tiny_model.generate("a penguin", negative="cat", seed=3)[0], Image.open(target)) <= 1


def test_without_a_seed_each_request_gets_its_own(tiny_model: StableDiffusion) -> None:
    assert tiny_model.request("a fox").seed != tiny_model.request("a fox").seed


# ---- what a request says


def test_what_is_left_out_comes_from_the_card(tiny_model: StableDiffusion) -> None:
    request = tiny_model.request("a fox", seed=None, steps=None)
    assert (request.steps, request.guidance, request.size) == (4, 2.0, (64, 64))
    assert (request.sampler, request.schedule) == ("ddim", "uniform")
    with told("guidance 0 leads away from the prompt"):
        assert tiny_model.request("a fox", guidance=0).guidance == 0.0  # 0 is a value, not an absence


def test_another_sampler_brings_its_usual_schedule(tiny_model: StableDiffusion) -> None:
    assert tiny_model.request("a fox", sampler="DPM++ 2M").schedule == "karras"
    assert tiny_model.request("a fox", sampler="DPM++ 2M", schedule="uniform").schedule == "uniform"
    assert tiny_model.request("a fox", sampler="DDIM").schedule == "uniform"
    assert tiny_model.request("a fox", sampler="DPM++ 2M", schedule="Automatic").schedule == "karras"


@pytest.mark.parametrize(
    ("fused", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("k_dpmpp_2m_ka", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("Euler a SGM Uniform", "euler_ancestral", "sgm_uniform"),
    ],
)
def test_fused_names_give_sampler_and_schedule(
    tiny_model: StableDiffusion, fused: str, sampler: str, schedule: str
) -> None:
    request = tiny_model.request("a fox", sampler=fused, schedule="automatic")
    assert (request.sampler, request.schedule) == (sampler, schedule)
    with pytest.raises(UserError, match=f"{schedule}, but 'simple' was given"):
        tiny_model.request("a fox", sampler=fused, schedule="simple")


def test_dpm2_leaves_out_the_next_to_last_sigma(tiny_model: StableDiffusion) -> None:
    longer = tiny_model.plan(tiny_model.request("a fox", sampler="Heun", schedule="karras", steps=6)).sigmas
    found = tiny_model.plan(tiny_model.request("a fox", sampler="DPM2", steps=5)).sigmas
    assert found == [*longer[:5], 0.0]


@pytest.mark.parametrize("size", [(100, 64), (64, 76)])
def test_a_size_between_the_models_steps_is_refused(tiny_model: StableDiffusion, size: tuple[int, int]) -> None:
    assert tiny_model.size_step == 8  # the autoencoder's factor; the UNet takes any latent
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*multiples of 8"):
        tiny_model.generate("a fox", size=size)


def test_eta_is_for_samplers_that_have_it(tiny_model: StableDiffusion) -> None:
    still = tiny_model.generate("a fox", seed=1)[0]
    assert difference(still, tiny_model.generate("a fox", seed=1, eta=0.0)[0]) == 0
    assert difference(still, tiny_model.generate("a fox", seed=1, eta=1.0)[0]) > 1
    with pytest.raises(UserError, match=r"euler has no eta, but 0.5"):
        tiny_model.generate("a fox", sampler="euler", eta=0.5)


def test_more_steps_than_were_trained_are_refused(tiny_model: StableDiffusion) -> None:
    short = StableDiffusion(**{**vars(tiny_model), "schedule": NoiseSchedule(ScheduleConfig(steps=10))})
    with pytest.raises(UserError, match="11 steps"):
        short.generate("a fox", steps=11)


def test_words_that_do_not_fit_are_reported(tiny_model: StableDiffusion) -> None:
    with told("the last 5 tokens"):
        tiny_model.encode_text(["a " * 80])


# ---- the run


def test_on_step_sees_every_step(tiny_model: StableDiffusion) -> None:
    seen = []
    tiny_model.generate("a fox", steps=6, seed=1, count=2, on_step=lambda *info: seen.append(info))
    assert [step for step, *_ in seen] == list(range(6))
    sigmas = [sigma for _, sigma, *_ in seen]
    assert sigmas == sorted(sigmas, reverse=True) == tiny_model.plan(tiny_model.request("a fox", steps=6)).sigmas[:-1]
    for _, _, noisy, clean in seen:
        assert noisy.shape == clean.shape == (2, 4, 8, 8)


def test_guidance_1_asks_the_unet_half_as_much(tiny_model: StableDiffusion) -> None:
    batches = []
    handle = tiny_model.unet.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    try:
        tiny_model.generate("a fox", steps=3, guidance=1.0)
        tiny_model.generate("a fox", steps=3, guidance=2.0)
    finally:
        handle.remove()
    assert batches == [1, 1, 1, 2, 2, 2]


def test_only_ddim_ends_above_zero(tiny_model: StableDiffusion) -> None:
    schedule = NoiseSchedule(ScheduleConfig(final_sigma="first"))
    model = StableDiffusion(**{**vars(tiny_model), "schedule": schedule})
    assert model.plan(model.request("a fox")).sigmas[-1] == schedule.sigma_of(0)
    assert model.plan(model.request("a fox", sampler="euler")).sigmas[-1] == 0.0


# ---- what a picture carries


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_settings_survive_pillows_save(tiny_model: StableDiffusion, tmp_path: Path, suffix: str) -> None:
    from diafano import __version__
    from diafano.pictures.files import read_parameters

    pictures = tiny_model.generate("a fox, small", negative="cat", seed=8, count=2, sampler="Euler a")
    target = tmp_path / f"fox.{suffix}"
    pictures[1].save(target)
    assert read_parameters(target) == (
        "a fox, small\nNegative prompt: cat\n"
        "Steps: 4, Sampler: Euler a, Schedule type: Uniform, CFG scale: 2, Seed: 9, Size: 64x64, Model: tiny, "
        f"Version: diafano {__version__}"
    )


# ---- parts that do not fit


def test_a_unet_for_editing_is_refused(tiny_model: StableDiffusion) -> None:
    unet = UNet(tiny_model.unet.config.model_copy(update={"in_channels": 8}))
    with pytest.raises(UserError, match="depth or editing"):
        StableDiffusion(**{**vars(tiny_model), "unet": unet})


@pytest.mark.parametrize(
    ("change", "said"), [({"width": 32}, "width 16"), ({"vocabulary": 520}, "tokens"), ({"positions": 20}, "positions")]
)
def test_a_text_encoder_of_another_model_is_refused(
    tiny_model: StableDiffusion, change: dict[str, int], said: str
) -> None:
    config: Any = {
        **tiny_model.text_encoder.config.model_dump(),
        "start_token": 1,
        "end_token": 2,
        "pad_token": 2,
        **change,
    }
    with pytest.raises(UserError, match=said):
        StableDiffusion(**{**vars(tiny_model), "text_encoder": CLIPTextEncoder(CLIPTextConfig(**config))})


# ---- pictures given as files


def test_pictures_may_be_given_as_paths(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), "orange")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    picture.save(tmp_path / "p.png")
    mask.save(tmp_path / "m.png")
    settings: dict[str, Any] = {"seed": 1, "steps": 2, "strength": 1.0}
    (given,) = tiny_model.generate("a fox", image=picture, mask=mask, **settings)
    (read,) = tiny_model.generate("a fox", image=str(tmp_path / "p.png"), mask=tmp_path / "m.png", **settings)
    assert difference(given, read) == 0


@pytest.mark.parametrize("given", [np.zeros((64, 64, 3), np.uint8), b"bytes", 3])
def test_what_is_no_picture_is_named(tiny_model: StableDiffusion, given: Any) -> None:
    with pytest.raises(UserError, match=f"the image is a {type(given).__module__}.{type(given).__name__}: give a PIL"):
        tiny_model.generate("a fox", image=given)
    with pytest.raises(UserError, match="the mask is a "):
        tiny_model.generate("a fox", image=Image.new("RGB", (64, 64)), mask=given)


def test_a_file_that_is_not_there_is_named(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match=r"nowhere\.png"):
        tiny_model.generate("a fox", image="nowhere.png")
