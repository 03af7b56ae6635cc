"""The upscaler's stage: it begins with nearest neighbours, learns, resumes bit for bit, and hands on what opens."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.upscaler import load_upscaler
from diafano.cli import main as cli
from diafano.engine.upscaler import NetworkUpscaler
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig
from diafano.stable_diffusion import StableDiffusion
from diafano.training.data.emoji.objects import EVERYDAY
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.loop import Training
from diafano.training.recipe import UpscalerRecipe, read_recipe
from diafano.training.stages.upscaler import FILE, UpscalerStage, begin_with_nearest_neighbours

CPU = torch.device("cpu")
DATA = {"size": 64, "examples": 24}
LOOP = {
    "steps": 16,
    "batch": 4,
    "learning_rate": 2e-3,
    "optimiser": "muon",
    "warmup": 4,
    "ema": 0.5,
    "precision": "fp32",
    "tensorboard": False,
    "log_every": 1,
}


def recipe(folder: Path, **changes: Any) -> UpscalerRecipe:
    network = {"width": 8, "blocks": 1, "growth": 4}
    fields = {"output": folder, "data": DATA, "network": network, "loop": LOOP, "name": "tiny x4", "crop": 32}
    return UpscalerRecipe.model_validate(fields | changes)


@pytest.mark.parametrize("doublings", [0, 1, 2])
def test_it_begins_with_nearest_neighbours(doublings: int) -> None:
    network = RRDBNet(RRDBNetConfig(width=8, blocks=2, growth=4, doublings=doublings))
    begin_with_nearest_neighbours(network)
    pixels = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        difference = network(pixels) - F.interpolate(pixels, scale_factor=2.0**doublings)
    assert difference.abs().mean() < 0.05


def test_it_learns_resumes_and_hands_on(tmp_path: Path) -> None:
    def dark(folder: Path) -> UpscalerStage:
        stage = UpscalerStage(recipe(folder), CPU)
        stage.network.conv_last.weight.data.mul_(0.5)  # it begins too well for a few steps to show
        return stage

    stage = dark(tmp_path / "a")
    before = stage.preview()[1]["psnr"]
    whole = Training(stage, recipe(tmp_path / "a").loop, tmp_path / "a", CPU)
    whole.run()
    assert stage.preview()[1]["psnr"] > before + 1
    for until in (5, None):
        stage = dark(tmp_path / "b")
        Training(stage, recipe(tmp_path / "b").loop, tmp_path / "b", CPU).run(until=until)
    for weight, again in zip(whole.parameters, stage.network.parameters(), strict=True):
        assert torch.equal(weight, again)
    found = load_upscaler(tmp_path / "a" / FILE)
    assert isinstance(found, NetworkUpscaler) and (found.label, found.scale) == ("tiny x4", 4)
    one, other = (load_file(tmp_path / run / FILE) for run in ("a", "b"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_small_pictures_go_through_the_autoencoder(tmp_path: Path, tiny_model: StableDiffusion) -> None:
    save_folder(tiny_model, tmp_path / "m")
    stage = UpscalerStage(recipe(tmp_path / "o", autoencoder=tmp_path / "m", crop=None, noise=0.0), CPU)
    true, generator = torch.rand(4, 3, 64, 64), torch.Generator().manual_seed(0)
    plain = stage.made_small(true, generator.manual_seed(0), share=0.0)
    torch.testing.assert_close(plain, F.interpolate(true, (16, 16), mode="area"), atol=0.2, rtol=0)
    half = stage.made_small(true, generator.manual_seed(0), share=0.5)
    assert half.shape == (4, 3, 16, 16)
    assert torch.equal(half[2:], plain[2:]) and (half[:2] - plain[:2]).abs().mean() > 0.05
    noisy = stage.made_small(true, generator.manual_seed(0), share=0.0, noise=0.1)
    assert 0.001 < (noisy - plain).std() < 0.1
    assert not any(name.startswith("autoencoder") for name, _ in stage.trained.named_parameters())
    picture, figures = stage.preview()
    assert picture.size == (6 * 66 - 2, 4 * 66 - 2)
    assert figures.keys() == {"psnr", "edges", "psnr_lanczos", "edges_lanczos"}


def test_the_command_and_its_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Sprites.shipped()
    Sprites({name: shipped[name] for name in EVERYDAY}).save_sheet(tmp_path / "sheet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text("""
output = "out"
[data]
size = 64
examples = 8
sprites = "sheet"
sheet = "sheet"
[network]
width = 8
blocks = 1
growth = 4
[loop]
steps = 2
batch = 2
tensorboard = false
""")
    assert cli.run(["train", "upscaler", "--config", "r.toml", "--device", "cpu"]) == 0
    assert load_upscaler(tmp_path / "out" / FILE).label == "upscaler"
    assert (tmp_path / "out" / "previews" / "0000002.png").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop": 30}, "crop 30 is not a multiple of 4 up to the size 64"),
        ({"data": {**DATA, "size": 66}}, "data.size 66 is not a multiple of 4"),
        ({"data": {**DATA, "sprites": "sheet"}}, "name a folder"),
    ],
)
def test_a_wrong_recipe(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recipe(tmp_path, **change)


def test_the_embedded_models_recipe_is_small_enough() -> None:
    found = read_recipe(Path(__file__).parents[2] / "recipes" / "embedded" / "upscaler.toml", UpscalerRecipe)
    assert found.network.growth == 32  # which other programs take for granted
    network = RRDBNet(found.network)
    assert 2 * sum(weight.numel() for weight in network.parameters()) < 1.5e6
