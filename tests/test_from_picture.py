"""Drawing over pictures: what stays stays bit for bit, and diffusers' pipelines draw the same."""

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from diafano.checkpoints.diffusers import save_folder
from diafano.errors import UserError
from diafano.from_picture import encode_init_image
from diafano.picture import to_picture
from diafano.stable_diffusion import StableDiffusion
from diafano.unet import UNet

PROMPT, SEED, STEPS, GUIDANCE = "a penguin", 3, 8, 3.0


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """White in the middle, on whole latent positions (8 pixels)."""
    drawn = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(drawn).rectangle((16, 24, 47, 55), fill=255)
    return drawn


def draw(model: StableDiffusion, **settings: Any) -> Image.Image:
    return model.generate(PROMPT, seed=SEED, steps=STEPS, guidance=GUIDANCE, **settings)[0]


def same(first: Image.Image, second: Image.Image) -> bool:
    return bool((np.asarray(first) == np.asarray(second)).all())


def psnr(first: Any, second: Any) -> float:
    error = np.mean((np.asarray(first, float) - np.asarray(second, float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_strength_zero_gives_the_picture_as_the_autoencoder_sees_it(
    tiny_model: StableDiffusion, picture: Image.Image
) -> None:
    with torch.inference_mode():
        start = encode_init_image(tiny_model.autoencoder, picture, (64, 64))
        seen = to_picture(next(tiny_model.decode(start.latent)))
    assert same(draw(tiny_model, image=picture, strength=0.0), seen)


def test_strength_one_is_text_to_image(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    assert same(draw(tiny_model, image=picture, strength=1.0), draw(tiny_model))


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("blur", [0.0, 3.0])
def test_outside_the_mask_every_pixel_stays(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image, sampler: str, blur: float
) -> None:
    drawn = draw(tiny_model, image=picture, mask=mask, mask_blur=blur, sampler=sampler)
    old, new, inside = np.asarray(picture), np.asarray(drawn), np.asarray(mask) > 0
    if blur == 0:
        assert (new[~inside] == old[~inside]).all()
    far = np.ones((64, 64), bool)
    far[8:64, 0:64] = False
    assert (new[far] == old[far]).all()
    assert (new[inside] != old[inside]).mean() > 0.9


def test_an_empty_mask_changes_nothing_and_a_full_one_hides_nothing(
    tiny_model: StableDiffusion, picture: Image.Image
) -> None:
    assert same(draw(tiny_model, image=picture, mask=Image.new("L", (64, 64), 0)), picture)
    full = draw(tiny_model, image=picture, mask=Image.new("L", (64, 64), 255), strength=0.5)
    assert same(full, draw(tiny_model, image=picture, strength=0.5))


def test_the_size_is_the_pictures_or_the_nearest(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    assert draw(tiny_model, image=picture.resize((100, 70))).size == (96, 64)
    assert draw(tiny_model, image=picture, size=(80, 64)).size == (80, 64)


def test_a_batch_draws_what_each_alone_does(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    batch = tiny_model.generate(PROMPT, seed=SEED - 1, steps=STEPS, guidance=GUIDANCE, image=picture, count=3)
    assert psnr(batch[1], draw(tiny_model, image=picture)) > 50


def test_what_does_not_go_together_is_one_sentence(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image
) -> None:
    with pytest.raises(UserError, match="strength and mask belong to an image"):
        draw(tiny_model, mask=mask)
    with pytest.raises(UserError, match="make them of one size"):
        draw(tiny_model, image=picture, mask=mask.resize((32, 32)))
    with pytest.raises(UserError, match="a number from 0 to 1"):
        draw(tiny_model, image=picture, strength=1.5)
    with pytest.raises(UserError, match="cannot be blurred by -1"):
        draw(tiny_model, image=picture, mask=mask, mask_blur=-1)


def test_the_strength_is_recorded(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    assert "Denoising strength: 0.5" in draw(tiny_model, image=picture, strength=0.5).info["parameters"]


def opened(kind: Any, model: StableDiffusion, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A diffusers pipeline that starts, as we do, from the mean of the latent's distribution."""
    save_folder(model, folder)
    module = __import__(kind.__module__, fromlist=["retrieve_latents"])
    monkeypatch.setattr(module, "retrieve_latents", lambda output, **_: output.latent_dist.mode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: Any, **settings: Any) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generator = torch.Generator("cpu").manual_seed(SEED)
        return pipeline(
            PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator, **settings
        ).images[0]


@pytest.mark.parametrize("strength", [0.3, 0.75, 0.95])
def test_diffusers_image_to_image_draws_the_same(
    tiny_model: StableDiffusion, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    pipeline = opened(diffusers.StableDiffusionImg2ImgPipeline, tiny_model, tmp_path, monkeypatch)
    expected = theirs(pipeline, image=picture, strength=strength)
    assert psnr(draw(tiny_model, image=picture, strength=strength, like="diffusers"), expected) >= 50


@pytest.fixture(scope="module")
def inpainting_model(tiny_model: StableDiffusion) -> StableDiffusion:
    model = copy.copy(tiny_model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.unet = UNet(tiny_model.unet.config.model_copy(update={"in_channels": 9})).eval()
    return model


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_diffusers_inpainting_draws_the_same(
    tiny_model: StableDiffusion,
    inpainting_model: StableDiffusion,
    picture: Image.Image,
    mask: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    strength: float,
) -> None:
    model = tiny_model if channels == 4 else inpainting_model
    pipeline = opened(diffusers.StableDiffusionInpaintPipeline, model, tmp_path, monkeypatch)
    expected = theirs(pipeline, image=picture, mask_image=mask, strength=strength, width=64, height=64)
    settings = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "strength": strength, "like": "diffusers"}
    start = dataclasses.replace(
        encode_init_image(model.autoencoder, picture, (64, 64), mask=mask), mask=None
    )  # not pasted
    drawn = model.draw(model.request(PROMPT, **settings), start=start)[0]
    assert psnr(drawn, expected) >= 50


def test_an_inpainting_model_without_a_picture_says_what_it_needs(inpainting_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match="give an image and a mask"):
        draw(inpainting_model)
