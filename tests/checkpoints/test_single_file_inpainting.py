"""Single files of inpainting models: 9 input channels, drawn with an image and a mask, converted both ways."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file as load_tensors

from diafano.checkpoints.recognise import recognise
from diafano.checkpoints.single_file import save_file
from diafano.cli import main as cli
from diafano.networks.unet import UNet
from diafano.stable_diffusion import StableDiffusion

FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module", params=[1, 2], ids=["1.x", "2.x"])
def files(
    request: pytest.FixtureRequest,
    narrow_model: Callable[[bool], StableDiffusion],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An inpainting model of either family (``model.safetensors``, ``tokenizer``), a picture and a mask."""
    folder, model = tmp_path_factory.mktemp("inpainting"), copy.copy(narrow_model(request.param == 2))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.unet = UNet(model.unet.config.model_copy(update={"in_channels": 9})).eval()
    model.tokenizer.save(folder / "tokenizer")
    if request.param == 2:
        config = folder / "tokenizer/tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "!"}))
    save_file(model, folder / "model.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "picture.png")
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((16, 24, 47, 55), fill=255)
    mask.save(folder / "mask.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """What a command says: on standard output, or the one sentence of its error."""
    found = cli.run([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert found == code, said.err
    return said.out if code == 0 else said.err


def test_it_is_recognised_and_inspected(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "inspect", files / "model.safetensors")
    assert "inpainting (9 input channels: latent, mask, latent of the masked picture)" in text
    assert "(9, 32, 32), timestep" in text and "Missing: none" in text and "Suspicious: none" in text
    tensors = len(load_tensors(files / "model.safetensors"))
    assert f"Used: {tensors} of {tensors} tensors" in text and "Cannot be loaded" not in text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_converted_both_ways_bit_for_bit(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    first, folder, second = tmp_path / "first.safetensors", tmp_path / "folder", tmp_path / "second.safetensors"
    own = ["--tokenizer", files / "tokenizer"]
    run(capsys, "convert", files / "model.safetensors", first, "--dtype", dtype, *own)
    run(capsys, "convert", first, folder, "--dtype", dtype, *own)
    run(capsys, "convert", folder, second, "--dtype", dtype)
    before, after = load_tensors(first), load_tensors(second)
    assert before.keys() == after.keys() and before[FIRST].shape[1] == 9
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert before[FIRST].dtype == getattr(torch, dtype)
    assert recognise(second).prediction == recognise(files / "model.safetensors").prediction


def draw(files: Path, output: Path, *more: object) -> list[object]:
    model = ["--model", files / "model.safetensors", "--tokenizer", files / "tokenizer", "--device", "cpu"]
    run_of = ["--steps", 3, "--seed", 5, "--guidance", 3, "--sampler", "ddim", "--output", output]
    return ["generate", "a penguin", *model, *run_of, *more]


def test_it_fills_in_a_picture(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    over = ["--image", files / "picture.png", "--mask", files / "mask.png", "--strength", 1]
    run(capsys, *draw(files, tmp_path / "drawn.png", *over))
    old, new = (np.asarray(Image.open(path)) for path in (files / "picture.png", tmp_path / "drawn.png"))
    inside = np.asarray(Image.open(files / "mask.png")) > 0
    assert (old[~inside] == new[~inside]).all() and (old[inside] != new[inside]).mean() > 0.9
    grey = Image.new("RGB", (64, 64), (128, 128, 128))  # what it sees around the mask decides what it draws inside
    grey.save(tmp_path / "grey.png")
    other = ["--image", tmp_path / "grey.png", "--mask", files / "mask.png", "--strength", 1]
    run(capsys, *draw(files, tmp_path / "other.png", *other))
    assert (np.asarray(Image.open(tmp_path / "other.png"))[inside] != new[inside]).any()
    for some in ([], over[:2]):
        said = run(capsys, *draw(files, tmp_path / "none.png", *some), code=2)
        assert "fills in pictures: give an image and a mask" in said and not (tmp_path / "none.png").exists()


def test_the_folder_of_it_opens_in_diffusers_as_what_it_is(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [files / "model.safetensors", tmp_path / "folder", "--tokenizer", files / "tokenizer"]
    run(capsys, "convert", *source, "--dtype", "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "folder", low_cpu_mem_usage=False)
    assert type(pipeline) is diffusers.StableDiffusionInpaintPipeline
    stored = load_tensors(files / "model.safetensors")[FIRST]
    assert torch.equal(pipeline.unet.conv_in.weight, stored)
