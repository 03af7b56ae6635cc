"""Drawing over pictures: what stays stays bit for bit, and diffusers' pipelines draw the same."""

import copy
import dataclasses
import itertools
import warnings
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from diafano.checkpoints.diffusers import save_folder
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.networks.unet import UNet
from diafano.pictures.masks import filled, softened, window_around
from diafano.pictures.outpainting import enlarged
from diafano.pictures.pixels import to_picture
from diafano.pictures.sides import read_sides
from diafano.request.fields import MASKED_CONTENT
from diafano.sampling.init_image import InitImage, encode_init_image
from diafano.stable_diffusion import StableDiffusion
from helpers import told

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
    with told("the mask is empty"):
        assert same(draw(tiny_model, image=picture, mask=Image.new("L", (64, 64), 0)), picture)
    with told("the mask is full"):
        full = draw(tiny_model, image=picture, mask=Image.new("L", (64, 64), 255), strength=0.5)
    assert same(full, draw(tiny_model, image=picture, strength=0.5))


def test_the_size_is_the_pictures_or_the_nearest(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    assert draw(tiny_model, image=picture.resize((100, 70))).size == (96, 72)
    assert draw(tiny_model, image=picture.resize((40, 30))).size == (88, 64)  # no edge below 64
    assert draw(tiny_model, image=picture, size=(80, 64)).size == (80, 64)


def test_a_batch_draws_what_each_alone_does(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    batch = tiny_model.generate(PROMPT, seed=SEED - 1, steps=STEPS, guidance=GUIDANCE, image=picture, count=3)
    assert psnr(batch[1], draw(tiny_model, image=picture)) > 50


def test_what_does_not_go_together_is_one_sentence(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image
) -> None:
    with pytest.raises(UserError, match="a mask: that is for an image to draw over"):
        draw(tiny_model, mask=mask)
    with pytest.raises(UserError, match="strength, only_masked: that is for an image"):
        draw(tiny_model, strength=0.5, only_masked=True)
    with pytest.raises(UserError, match="masked_content, mask_padding: that is for a mask"):
        draw(tiny_model, image=picture, masked_content="fill", mask_padding=3)
    with pytest.raises(UserError, match="make them of one shape"):
        draw(tiny_model, image=picture, mask=mask.resize((32, 64)))
    with pytest.raises(UserError, match="a number from 0 to 1"):
        draw(tiny_model, image=picture, strength=1.5)
    with pytest.raises(UserError, match="mask_blur -1 is not possible"):
        draw(tiny_model, image=picture, mask=mask, mask_blur=-1)


def test_the_strength_is_recorded(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    assert "Denoising strength: 0.5" in draw(tiny_model, image=picture, strength=0.5).info["parameters"]


def test_with_a_mask_a_picture_keeps_its_size(tiny_model: StableDiffusion) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 101, 3), np.uint8))
    mask = Image.new("L", picture.size)
    mask.paste(255, (30, 20, 61, 45))
    for settings in ({}, {"size": (64, 64)}, {"only_masked": True, "mask_padding": 4}):
        drawn = np.asarray(draw(tiny_model, image=picture, mask=mask, **settings))
        outside = np.asarray(mask) == 0
        assert (drawn[outside] == np.asarray(picture)[outside]).all()
        assert (drawn[~outside] != np.asarray(picture)[~outside]).mean() > 0.9


# ---- the masked area


def test_an_inverted_mask_is_the_other_mask(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image
) -> None:
    drawn = draw(tiny_model, image=picture, mask=ImageOps.invert(mask), invert_mask=True, mask_blur=2)
    assert same(drawn, draw(tiny_model, image=picture, mask=mask, mask_blur=2))
    assert "Mask blur: 2, Mask mode: Inpaint not masked" in drawn.info["parameters"]


@torch.inference_mode()
def test_what_is_inside_the_mask_before_it_is_drawn_over(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image
) -> None:
    def start(content: str, over: Image.Image = picture) -> InitImage:
        return encode_init_image(tiny_model.autoencoder, over, (64, 64), mask=mask, content=content)

    inside = start("original").latent_mask
    assert inside is not None and inside.sum() == 16
    plain, noise = start("original"), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start("fill").latent, start("original", filled(picture, mask)).latent)
    nothing = start("latent nothing")
    assert torch.equal(nothing.latent, torch.where(inside, torch.zeros(()), plain.latent))
    noisy = start("latent noise").noised(noise, 0.0)
    assert torch.equal(noisy, torch.where(inside, noise, plain.latent.expand_as(noise)))
    assert torch.equal(start("latent noise").noised(noise, 2.0), noisy + 2.0 * noise)
    for content in MASKED_CONTENT:  # an inpainting model is shown the same
        assert torch.equal(*(cast(torch.Tensor, one.masked_latent) for one in (start(content), plain)))


def test_at_strength_one_nothing_of_the_masked_content_stays(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image
) -> None:
    kinds = [{"masked_content": kind} for kind in ("original", "latent-noise", "Latent nothing")]
    whole = [draw(tiny_model, image=picture, mask=mask, strength=1.0, **kind) for kind in kinds]
    half = [draw(tiny_model, image=picture, mask=mask, strength=0.5, **kind) for kind in kinds]
    assert all(psnr(one, whole[0]) > 45 for one in whole)
    assert all(psnr(one, other) < 45 for one, other in itertools.combinations(half, 2))
    assert "Masked content: latent noise" in half[1].info["parameters"]
    with pytest.raises(UserError, match=r"masked_content 'grey'.*one of original, fill, latent noise"):
        draw(tiny_model, image=picture, mask=mask, masked_content="grey")


def test_only_the_masked_area_is_drawn(tiny_model: StableDiffusion) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (150, 200, 3), np.uint8))
    mask = Image.new("L", picture.size)
    mask.paste(255, (120, 40, 150, 70))
    settings = {"image": picture, "only_masked": True, "mask_padding": 8, "mask_blur": 1.0}
    drawn = draw(tiny_model, mask=mask, **settings)
    assert "Size: 64x64" in drawn.info["parameters"]  # the model's own
    assert "Inpaint area: Only masked, Masked area padding: 8" in drawn.info["parameters"]
    cut = (109, 29, 161, 81)  # the mask with its soft edge of 3 pixels, and the padding
    window = window_around(softened(mask, 1.0), (64, 64), 8)
    assert window.box == cut
    alone = draw(tiny_model, image=picture.crop(cut), mask=mask.crop(cut), mask_blur=1.0, size=(64, 64))
    whole = picture.copy()
    whole.paste(alone, cut[:2])
    assert same(drawn, whole)
    with told("the mask is empty"):
        assert same(draw(tiny_model, mask=Image.new("L", picture.size), **settings), picture)


def test_a_full_mask_hides_nothing_of_the_only_masked_area(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    full = Image.new("L", (64, 64), 255)
    with told("the mask is full"):
        drawn = draw(tiny_model, image=picture, mask=full, only_masked=True, strength=0.5)
    assert same(drawn, draw(tiny_model, image=picture, strength=0.5))


# ---- beyond the sides


@pytest.mark.parametrize("channels", [4, 9])
def test_outpainting_keeps_the_picture(
    tiny_model: StableDiffusion, inpainting_model: StableDiffusion, picture: Image.Image, channels: int
) -> None:
    model = tiny_model if channels == 4 else inpainting_model
    drawn = draw(model, image=picture, outpaint="left=24,top=8", sampler="euler")
    assert drawn.size == (88, 72)
    assert (np.asarray(drawn)[8 + 17 :, 24 + 17 :] == np.asarray(picture)[17:, 17:]).all()
    assert 'Denoising strength: 1, Mask blur: 4, Outpaint: "left=24,top=8"' in drawn.info["parameters"]
    hard_edge = draw(model, image=picture, outpaint={"right": 13}, mask_blur=0)
    assert hard_edge.size == (77, 64)
    assert (np.asarray(hard_edge)[:, :64] == np.asarray(picture)).all()


def test_outpainting_is_inpainting_a_larger_canvas(
    tiny_model: StableDiffusion, picture: Image.Image, mask: Image.Image
) -> None:
    canvas, white = enlarged(picture, read_sides("right=16,bottom=32"), mask)
    by_hand = draw(tiny_model, image=canvas, mask=white, mask_blur=2, strength=0.8, masked_content="fill")
    settings = {"mask_blur": 2, "strength": 0.8, "masked_content": "fill"}
    assert same(draw(tiny_model, image=picture, mask=mask, outpaint="right=16,bottom=32", **settings), by_hand)


def test_the_command_draws_over_and_again_from_what_it_recorded(
    tiny_folder: Path,
    picture: Image.Image,
    mask: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {name: str(tmp_path / f"{name}.png") for name in ("old", "mask", "first", "again", "alone")}
    picture.save(names["old"])
    mask.save(names["mask"])
    command = ["generate", "--model", str(tiny_folder)]
    over = ["--image", names["old"], "--mask", names["mask"]]
    said = ["--masked-content", "fill", "--mask-blur", "2", "--strength", "0.6", "--only-masked", "--mask-padding", "5"]
    more = ["--invert-mask", "--outpaint", "left=8", "--seed", "1"]
    assert cli.run([*command, "a fox", *over, *said, *more, "--output", names["first"]]) == 0
    assert cli.run([*command, "--from", names["first"], *over, "--output", names["again"]]) == 0
    first, again = Image.open(names["first"]), Image.open(names["again"])
    assert first.size == (72, 64) and same(first, again)
    assert first.info["parameters"] == again.info["parameters"]
    assert cli.run([*command, "--from", names["first"], "--output", names["alone"]]) == 0
    notes = capsys.readouterr().err
    assert "Denoising strength: 0.6 (there is no --image)" in notes and "Inpaint area: Only masked (there" in notes


# ---- diffusers


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
    wide = picture.resize((88, 72))  # 11x9 latent positions, which the UNet cannot halve
    expected = theirs(pipeline, image=wide, strength=strength)
    assert psnr(draw(tiny_model, image=wide, strength=strength, like="diffusers"), expected) >= 50


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
    settings: Any = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "strength": strength, "like": "diffusers"}
    start = dataclasses.replace(
        encode_init_image(model.autoencoder, picture, (64, 64), mask=mask), mask=None
    )  # not pasted
    drawn = model.draw(model.request(PROMPT, **settings), start=start)[0]
    assert psnr(drawn, expected) >= 50


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("padding", [4, 8])
def test_diffusers_inpainting_draws_the_same_of_the_only_masked_area(
    tiny_model: StableDiffusion,
    inpainting_model: StableDiffusion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    padding: int,
) -> None:
    """The windows are 32x32 and 64x64, so that the mask's edges lie on whole latent positions in them, as in ours."""
    model = tiny_model if channels == 4 else inpainting_model
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8))
    mask = Image.new("L", picture.size)
    mask.paste(255, (40, 20, 64, 44) if padding == 4 else (40, 24, 88, 72))
    pipeline = opened(diffusers.StableDiffusionInpaintPipeline, model, tmp_path, monkeypatch)
    settings = {"strength": 0.6, "image": picture}
    expected = theirs(pipeline, mask_image=mask, width=64, height=64, padding_mask_crop=padding, **settings)
    drawn = draw(model, mask=mask, only_masked=True, mask_padding=padding, like="diffusers", **settings)
    assert drawn.size == expected.size == picture.size
    inside = np.asarray(mask) > 0
    assert psnr(np.asarray(drawn)[inside], np.asarray(expected)[inside]) >= 50
    assert psnr(drawn, picture) < 30


def test_an_inpainting_model_without_a_picture_says_what_it_needs(inpainting_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match="give an image and a mask"):
        draw(inpainting_model)
