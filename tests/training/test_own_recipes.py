"""Recipes for one's own pictures are read by the stages, with what depends on the pictures in them."""

from pathlib import Path

import pytest
from PIL import Image

from diafano.checkpoints.diffusers import save_folder
from diafano.errors import UserError
from diafano.stable_diffusion import StableDiffusion
from diafano.training.own_recipes import write_recipes, write_tuning_recipe
from diafano.training.recipe import AutoencoderRecipe, TextRecipe, UNetRecipe, read_recipe


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / 'my "best" pictures\\ü'
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (90, 70), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"red {number}", encoding="utf-8")
    return folder


def test_the_three_stages_hand_on_to_each_other(tmp_path: Path, pictures: Path) -> None:
    paths = write_recipes(tmp_path / "r", pictures, output=Path("runs/x"), size=96, name='a "name"')
    assert [path.name for path in paths] == ["autoencoder.toml", "text.toml", "unet.toml"]
    first = read_recipe(paths[0], AutoencoderRecipe)
    second = read_recipe(paths[1], TextRecipe)
    third = read_recipe(paths[2], UNetRecipe)
    assert {one.data.folder for one in (first, second, third)} == {pictures}
    assert (first.data.size, third.data.size, third.card.size) == (96, 96, (96, 96))
    assert (third.autoencoder, third.text) == (first.output, second.output)
    assert third.output == Path("runs/x/unet")
    assert third.card.name == 'a "name"'
    assert third.network.in_channels == third.network.out_channels == first.network.latent_channels
    assert second.network.width == third.network.text_width
    assert second.loop.batch == 3  # no more than there are


@pytest.mark.parametrize(("size", "window"), [(64, 64), (512, 64)])
def test_windows_fit(tmp_path: Path, pictures: Path, size: int, window: int) -> None:
    path, *_ = write_recipes(tmp_path / "r", pictures, output=Path("o"), size=size, name="x")
    assert read_recipe(path, AutoencoderRecipe).crop == window


def test_a_model_learns_on_in_its_own_shape(tmp_path: Path, pictures: Path, tiny_model: StableDiffusion) -> None:
    save_folder(tiny_model, tmp_path / "model")
    (path,) = write_tuning_recipe(tmp_path / "r", pictures, output=Path("o"), start=str(tmp_path / "model"), size=None)
    recipe = read_recipe(path, UNetRecipe)
    assert recipe.start == recipe.autoencoder == recipe.text == tmp_path / "model"
    assert recipe.network == tiny_model.unet.config
    assert recipe.schedule == tiny_model.schedule.config
    assert recipe.data.size == tiny_model.card.size[0]
    assert recipe.card.name == f"{tiny_model.card.name}-tuned"
    assert recipe.loop.batch == 3


@pytest.mark.parametrize("size", [63, 100, 32, 4096])
def test_a_size_that_does_not_fit(tmp_path: Path, pictures: Path, size: int) -> None:
    with pytest.raises(UserError, match=f"size {size} is not possible: give a multiple of 32 from 64"):
        write_recipes(tmp_path / "r", pictures, output=Path("o"), size=size, name="x")
    assert not (tmp_path / "r").exists()


def test_what_is_there_stays(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "text.toml").write_text("mine")
    with pytest.raises(UserError, match="there is a recipe already"):
        write_recipes(tmp_path, pictures, output=Path("o"), size=64, name="x")
    assert (tmp_path / "text.toml").read_text() == "mine"
    assert not (tmp_path / "autoencoder.toml").exists()


def test_pictures_without_captions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        write_recipes(tmp_path / "r", tmp_path / "nothing", output=Path("o"), size=64, name="x")
