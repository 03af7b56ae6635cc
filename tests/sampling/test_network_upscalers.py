"""Networks in the high-resolution pass and for finished pictures: found by name, recorded, and drawn again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diafano
from diafano.checkpoints.diffusers import load_folder, save_folder
from diafano.checkpoints.upscaler import load_upscaler, save_upscaler
from diafano.checkpoints.upscaler_files import A1111, OWN, UpscalerFiles
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig
from diafano.pictures.files import read_parameters, save_picture
from diafano.pictures.pixels import to_picture, to_pixels
from diafano.request.recorded import from_infotext
from diafano.sampling.init_image import InitImage
from diafano.stable_diffusion import StableDiffusion
from helpers import told

PLAIN: dict[str, Any] = {"seed": 3, "steps": 4, "sampler": "euler_ancestral"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    for number, name in enumerate(("RealESRGAN_x4plus", "4x-UltraSharp")):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            network = RRDBNet(RRDBNetConfig(width=8, blocks=1, growth=4))
        torch.save({"params_ema": network.state_dict()}, folder / f"{name}.pth")
    return folder


@pytest.fixture
def model(tiny_folder: Path, networks: Path) -> StableDiffusion:
    return diafano.load(tiny_folder, upscalers=networks)


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@torch.inference_mode()
def first_latent(model: StableDiffusion) -> torch.Tensor:
    plan = model.plan(model.request("a fox", **PLAIN))
    (one,) = plan.passes
    return model.denoise(one, model.prompts_of(plan, one), model.noise(one, range(1)))


@pytest.mark.parametrize(("name", "file"), [("4x-UltraSharp", "4x-UltraSharp"), ("R-ESRGAN 4x+", "RealESRGAN_x4plus")])
def test_the_second_pass_draws_over_what_the_network_made(
    model: StableDiffusion, networks: Path, name: str, file: str
) -> None:
    """Decode, upscale, resize to the target, encode: as A1111 does."""
    drawn = model.generate("a fox", **PLAIN, hires=2.0, hires_strength=0.5, hires_upscaler=name)[0]
    with torch.inference_mode():
        small = to_picture(next(model.decode(first_latent(model))))
        large = load_upscaler(networks / f"{file}.pth").upscale(small, scale=4)
        over = large.resize((128, 128), Image.Resampling.LANCZOS)
        start = model.autoencoder.encode(to_pixels(over)[None]).mean
    second = model.request("a fox", **PLAIN, strength=0.5, size="128x128")
    expected = model.draw(second, start=InitImage(start))[0]
    assert np.abs(values(drawn) - values(expected)).mean() < 0.5
    assert f"Hires upscaler: {name}" in drawn.info["parameters"]


def test_finished_pictures_are_made_larger(model: StableDiffusion, networks: Path) -> None:
    small = model.generate("a fox", **PLAIN)[0]
    for name, by in (("4x-ultrasharp", load_upscaler(networks / "4x-UltraSharp.pth")), ("lanczos", None)):
        drawn = model.generate("a fox", **PLAIN, upscale=3.0, upscaler=name)[0]
        expected = small.resize((192, 192), Image.Resampling.LANCZOS) if by is None else by.upscale(small, scale=3)
        assert drawn.size == (192, 192)
        assert np.abs(values(drawn) - values(expected)).max() <= 1
        label = "Lanczos" if by is None else name
        assert "Size: 64x64" in drawn.info["parameters"]
        assert f"Postprocess upscale by: 3, Postprocess upscaler: {label}," in drawn.info["parameters"]
        recorded = from_infotext(drawn.info["parameters"], model.addons.knows_upscaler)
        assert recorded.ignored == ()
        again = model.generate(recorded.prompt, **recorded.settings)[0]
        assert np.abs(values(again) - values(drawn)).max() == 0


def test_the_real_command(tiny_folder: Path, networks: Path, tmp_path: Path) -> None:
    generate = ["generate", "--model", str(tiny_folder)]
    said = ["a fox", "--seed", "3", "--steps", "2", "--hires", "2", "--upscale", "2"]
    files = [
        "--hires-upscaler",
        str(networks / "4x-UltraSharp.pth"),
        "--upscaler",
        str(networks / "RealESRGAN_x4plus.pth"),
    ]
    assert cli.run([*generate, *said, *files, "--output", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (256, 256)
    text = read_parameters(tmp_path / "a.png") or ""
    assert "Hires upscaler: 4x-UltraSharp, Postprocess upscale by: 2, Postprocess upscaler: RealESRGAN_x4plus" in text
    again = ["--from", str(tmp_path / "a.png"), "--upscaler-dir", str(networks), "--output", str(tmp_path / "b.png")]
    assert cli.run([*generate, *again]) == 0
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as other:
        assert (values(one) == values(other)).all()
    assert read_parameters(tmp_path / "b.png") == text


def test_without_the_files_lanczos_and_it_is_said(
    tiny_folder: Path, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "Steps: 2, Sampler: Euler a, CFG scale: 6, Seed: 1, Size: 64x64, Denoising strength: 0.4, Hires upscale: 2"
    said = f"a fox\n{line}, Hires upscaler: R-ESRGAN 4x+, Postprocess upscale by: 2, Postprocess upscaler: 4x-Other"
    recorded = from_infotext(said)
    lost = ("Hires upscaler: R-ESRGAN 4x+ (Lanczos instead)", "Postprocess upscaler: 4x-Other (Lanczos instead)")
    assert recorded.ignored == lost
    assert recorded.settings["hires_upscaler"] == recorded.settings["upscaler"] == "Lanczos"
    save_picture(Image.new("RGB", (64, 64)), tmp_path / "a.png", said)
    command = ["generate", "--model", str(tiny_folder), "--from", str(tmp_path / "a.png"), "--output"]
    assert cli.run([*command, str(tmp_path / "b.png"), "--upscaler-dir", str(networks)]) == 0
    error = capsys.readouterr().err
    assert lost[1] in error and lost[0] not in error
    text = read_parameters(tmp_path / "b.png") or ""
    assert "Hires upscaler: R-ESRGAN 4x+, Postprocess upscale by: 2, Postprocess upscaler: Lanczos" in text


def test_a1111s_names_are_those_of_its_files(tmp_path: Path) -> None:
    for stem in A1111.values():
        (tmp_path / f"{stem}.pth").touch()
    files = UpscalerFiles([tmp_path])
    assert {name: files.path_of(name) for name in A1111} == {
        name: tmp_path / f"{stem}.pth" for name, stem in A1111.items()
    }
    assert files.path_of("realesrgan x4plus") == tmp_path / "RealESRGAN_x4plus.pth" and not files.knows("SwinIR_4x")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "ESRGAN.safetensors").touch()
    with pytest.raises(UserError, match="there are several upscalers called 'ESRGAN_4x'"):
        files.path_of("ESRGAN_4x")


def test_a_model_may_have_its_own_and_use_it_unasked(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    save_folder(tiny_model, tmp_path / "m")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RRDBNet(RRDBNetConfig(width=8, blocks=1, growth=4))
    (tmp_path / "m" / OWN).parent.mkdir()
    save_upscaler(network, tmp_path / "m" / OWN, "own", "float32")
    model = load_folder(tmp_path / "m")
    small = model.generate("a fox", **PLAIN)[0]
    assert small.size == (64, 64)  # its card says nothing of it
    model.card = model.card.model_copy(update={"upscale": 4.0})
    drawn = model.generate("a fox", **PLAIN)[0]
    expected = load_upscaler(tmp_path / "m" / OWN).upscale(small)
    assert drawn.size == (256, 256) and np.abs(values(drawn) - values(expected)).max() <= 1
    assert "Postprocess upscale by: 4, Postprocess upscaler: tiny," in drawn.info["parameters"]
    for said in ({"size": (64, 64)}, {"upscale": 1.0}, {"image": small}):
        assert model.generate("a fox", **PLAIN, **said)[0].size == (64, 64)
    assert model.generate("a fox", **PLAIN, hires=2.0)[0].size == (128, 128)
    again = from_infotext(drawn.info["parameters"], model.addons.knows_upscaler)
    assert (values(model.generate(again.prompt, **again.settings)[0]) == values(drawn)).all()
    plain = from_infotext(small.info["parameters"])
    assert (values(model.generate(plain.prompt, **plain.settings)[0]) == values(small)).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hires": 2.0, "hires_upscaler": "4x-Absent"}, "unknown upscaler '4x-Absent': use one of 4x-UltraSharp"),
        ({"upscale": 2.0, "upscaler": "SwinIR_4x"}, "unknown upscaler 'SwinIR_4x'"),
        ({"upscale": 2.0, "upscaler": "R-ESRGAN 2x+"}, "a folder that has RealESRGAN_x2plus.pth"),
        ({"upscale": 2.0, "upscaler": "latent"}, "Latent makes latents larger, not pictures"),
        ({"upscale": 0.5}, "from 1 to 16"),
        ({"upscaler": "lanczos"}, "upscaler 'Lanczos': that is for a picture made larger, so give upscale too"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_drawn(
    model: StableDiffusion, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        model.request("a fox", **PLAIN, **settings)


def test_folders_and_files_are_checked(tiny_folder: Path, networks: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .* of upscalers"):
        diafano.load(tiny_folder, upscalers=tmp_path / "no")
    with pytest.raises(UserError, match="there is no file"):
        diafano.load(tiny_folder, upscalers={"x": tmp_path / "no.pth"})
    with told("there are no upscalers in the folder"):
        diafano.load(tiny_folder, upscalers=tmp_path)
    model = diafano.load(tiny_folder, upscalers=[networks, {"mine": networks / "4x-UltraSharp.pth"}])
    assert model.generate("a fox", **PLAIN, upscale=2.0, upscaler="mine")[0].size == (128, 128)
