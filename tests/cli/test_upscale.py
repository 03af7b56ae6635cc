"""`diafano upscale`: pictures of every kind made larger, by the real command."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diafano.checkpoints.upscaler import load_upscaler, save_upscaler
from diafano.cli import main as cli
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig
from diafano.pictures.files import read_parameters, save_picture
from diafano.pictures.metadata import with_parameters
from diafano.training.stages.upscaler import begin_with_nearest_neighbours

TEXT = 'a fox\nSteps: 4, Sampler: Euler a, CFG scale: 6, Seed: 1, Size: 30x20, Lora hashes: "x: 1", Model: m'


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """About nearest neighbours, four times larger."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = RRDBNet(RRDBNetConfig(width=8, blocks=1, growth=4))
        begin_with_nearest_neighbours(made)
    (tmp_path / "networks").mkdir()
    path = tmp_path / "networks" / "RealESRGAN_x4plus.safetensors"
    save_upscaler(made, path, "tiny x4", "float32")
    return path


def noise(*shape: int, kind: Any = np.uint8) -> np.ndarray:
    """Smooth, so that what an upscaler makes of it is near it."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 4), dtype=np.uint8)).resize((30, 20), Image.Resampling.BICUBIC)
    values = np.asarray(small).astype(np.float32)[..., : shape[2] if len(shape) == 3 else 1]
    values = values if len(shape) == 3 else values[..., 0]
    return (values * 257).astype(np.uint16) if kind is np.uint16 else values.astype(np.uint8)


def pictures(folder: Path) -> dict[str, Image.Image]:
    """By file name; each 30x20, upright."""
    folder.mkdir(exist_ok=True)
    colours = Image.fromarray(noise(20, 30, 3))
    seen = Image.fromarray(noise(20, 30, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colours.png": (colours, {}),
        "seen.png": (seen, {}),
        "seen.webp": (seen, {"lossless": True}),
        "grey.png": (colours.convert("L"), {}),
        "grey.jpg": (colours.convert("L"), {"quality": 95}),
        "grey-seen.png": (seen.convert("LA"), {}),
        "deep.png": (Image.fromarray(noise(20, 30, kind=np.uint16)), {}),
        "palette.png": (colours.quantize(64), {}),
        "two.png": (colours.convert("1"), {}),
        "side.jpg": (colours.transpose(Image.Transpose.ROTATE_90), {"exif": exif, "quality": 95}),
    }
    for name, (picture, options) in kinds.items():
        picture.save(folder / name, **options)
    return {name: colours if name == "side.jpg" else picture for name, (picture, _) in kinds.items()}


MODES = {
    **dict.fromkeys(("colours.png", "palette.png", "side.jpg"), "RGB"),
    **dict.fromkeys(("grey.png", "grey.jpg", "two.png"), "L"),
    **dict.fromkeys(("seen.png", "seen.webp"), "RGBA"),
    "grey-seen.png": "LA",
    "deep.png": "I;16",
}


@pytest.mark.parametrize("by", ["network", "lanczos"])
def test_every_kind_of_picture(by: str, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    originals = pictures(tmp_path / "in")
    upscaler = str(network) if by == "network" else "lanczos"
    command = [
        "upscale",
        str(tmp_path / "in"),
        "--upscaler",
        upscaler,
        "--scale",
        "3",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.run(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(str(tmp_path / "out" / name) for name in MODES)
    for name, mode in MODES.items():
        with Image.open(tmp_path / "out" / name) as made:
            assert (made.mode, made.size) == (mode, (90, 60)), name
            original = originals[name].convert(mode) if mode != "I;16" else originals[name]
            back = np.asarray(made.resize((30, 20), Image.Resampling.BOX) if mode != "I;16" else made)
            if mode == "I;16":
                back = back.reshape(20, 3, 30, 3).mean((1, 3)) / 257
                expected = np.asarray(original) / 257
            else:
                expected = np.asarray(original)
            if mode in ("LA", "RGBA"):  # what is not seen has no colour
                weight = expected[..., -1:] / 255.0
                back, expected = back * np.clip(weight * 2 - 1, 0, 1), expected * np.clip(weight * 2 - 1, 0, 1)
            error = np.abs(back.astype(float) - expected).mean()
            assert error < (60 if name == "two.png" else 8), (name, error)


def test_transparency_is_made_larger_by_itself(network: Path) -> None:
    """A red disc on nothing: no colour of what is not seen gets into its edge, and all else stays transparent."""
    values = np.zeros((24, 24, 4), np.uint8)
    values[..., 1] = 255  # unseen green
    rows, columns = np.mgrid[:24, :24] - 11.5
    inside = rows**2 + columns**2 < 64
    values[inside] = (255, 0, 0, 255)
    made = np.asarray(load_upscaler(network).upscale(Image.fromarray(values))).astype(int)
    assert made.shape == (96, 96, 4)
    seen = made[made[..., 3] > 16]
    assert seen[:, 1].max() < 48 and seen[:, 0].min() > 200
    assert made[:8, :8, 3].max() == 0 and made[44:52, 44:52, 3].min() > 250
    opaque = Image.fromarray(np.dstack([values[..., :3], np.full((24, 24), 255, np.uint8)]))
    assert np.asarray(load_upscaler(network).upscale(opaque))[..., 3].min() == 255


@pytest.mark.parametrize("scale", [0.5, 1, 2.5, 4, 10, 64])
def test_any_scale(network: Path, scale: float) -> None:
    picture = Image.fromarray(noise(20, 30, 3)).resize((6, 4))
    made = load_upscaler(network).upscale(picture, scale=scale)
    assert made.size == (round(6 * scale), round(4 * scale))
    expected = picture.resize(made.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(made).astype(int) - np.asarray(expected)).mean() < 20


def test_settings_stay_and_say_what_was_done(network: Path, tmp_path: Path) -> None:
    save_picture(with_parameters(Image.fromarray(noise(20, 30, 3)), TEXT), tmp_path / "a.png")
    command = ["upscale", str(tmp_path / "a.png"), "--upscaler-dir", str(network.parent)]
    assert cli.run([*command, "--upscaler", "R-ESRGAN 4x+"]) == 0
    said = f"{TEXT}, Postprocess upscale by: 4, Postprocess upscaler: tiny x4"
    assert read_parameters(tmp_path / "a-x4.png") == said
    command = ["upscale", str(tmp_path / "a-x4.png"), "--upscaler", "lanczos", "--scale", "1.5"]
    assert cli.run([*command, "--output", str(tmp_path / "b.webp")]) == 0
    said = f"{TEXT}, Postprocess upscale by: 6, Postprocess upscaler: Lanczos"
    assert read_parameters(tmp_path / "b.webp") == said
    with Image.open(tmp_path / "b.webp") as picture:
        assert picture.size == (180, 120)


def test_names_are_taken_from_nobody(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "a-x4.png").write_bytes(b"mine")
    command = ["upscale", str(tmp_path / "a.png"), "--upscaler", str(network)]
    assert cli.run(command) == cli.run(command) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "a-x4-2.png"), str(tmp_path / "a-x4-3.png")]
    assert (tmp_path / "a-x4.png").read_bytes() == b"mine"
    assert cli.run([*command, "--output", str(tmp_path / "a-x4.png")]) == 0
    assert "was there already and has been replaced" in capsys.readouterr().err
    assert cli.run([*command, "--output", str(tmp_path / "a-x4.jpg")]) == 0
    assert {path.name for path in tmp_path.glob("*.*")} == {
        *("a.png", "a-x4.png", "a-x4-2.png", "a-x4-3.png", "a-x4.jpg")
    }


def test_what_cannot_be_is_one_sentence(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "b.png")
    one, two = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    cases = [
        ([one, "--upscaler", "4x-Absent"], "unknown upscaler '4x-Absent'"),
        ([one, "--upscaler", "R-ESRGAN 2x+"], "a folder that has RealESRGAN_x2plus.pth"),
        ([one, "--upscaler", "latent"], "Latent makes latents larger, not pictures"),
        ([one, "--upscaler", one], "a picture"),
        ([one, "--scale", "0"], "scale 0 is not possible"),
        ([one, "--scale", "65"], "up to 64"),
        ([one, "--tile", "10"], "tiles of 10 pixels"),
        ([one, "--output", str(tmp_path / "no" / "a.png")], "there is no folder"),
        ([one, "--output", str(tmp_path / "a.gif")], "cannot tell the picture format"),
        ([one, two, "--output", str(tmp_path / "c.png")], "2 pictures do not go into one file"),
        ([one, "--upscaler-dir", str(tmp_path / "no")], "there is no folder"),
    ]
    before = sorted(tmp_path.iterdir())
    for arguments, said in cases:
        assert cli.run(["upscale", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert said in error.splitlines()[-1], (arguments, error)
        assert sorted(tmp_path.iterdir()) == before


def test_one_that_is_broken_keeps_no_other(tmp_path: Path) -> None:
    """In a process of its own, as people call it."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("L", (8, 8)).save(tmp_path / "c.jpg")
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "absent.png", "c.jpg")]
    command = [sys.executable, "-m", "diafano", "upscale", *names, "--upscaler", "nearest"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)
    assert result.returncode == 2
    assert result.stdout.split() == [str(tmp_path / "a-x2.png"), str(tmp_path / "c-x2.jpg")]
    assert "absent.png" in result.stderr and "b.png" in result.stderr


def test_without_a_name_lanczos_or_what_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    assert cli.run(["upscale", str(tmp_path / "a.png")]) == 0
    out, error = capsys.readouterr()
    assert ("none ships with this copy" in error) == out.endswith("a-x2.png\n")
