"""Recipes: what is checked before anything starts, and that the ones shipped are valid."""

from pathlib import Path

import pytest

from diafano.errors import UserError
from diafano.training.data.emoji.objects import EVERYDAY, OBJECTS
from diafano.training.recipe import STAGES, AutoencoderRecipe, UNetRecipe, read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
GOOD = """
output = "runs/x"
[data]
size = 64
[network]
widths = [16, 32]
[loop]
steps = 10
"""


def written(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, GOOD), AutoencoderRecipe)
    assert recipe.network.widths == (16, 32)
    assert recipe.loop.batch == 32
    assert recipe.data.kind == "emoji"


def test_yaml_says_the_same(tmp_path: Path) -> None:
    yaml = "output: runs/x\ndata: {size: 64}\nnetwork: {widths: [16, 32]}\nloop: {steps: 10}\n"
    from_yaml = read_recipe(written(tmp_path, yaml, "recipe.yaml"), AutoencoderRecipe)
    assert from_yaml == read_recipe(written(tmp_path, GOOD), AutoencoderRecipe)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "stepz = 3\n", "loop.stepz"),
        (GOOD.replace("steps = 10", "steps = 0"), "loop.steps, which is 0"),
        (GOOD.replace("steps = 10", 'steps = "many"'), "loop.steps, which is 'many'"),
        (GOOD.replace("[loop]\nsteps = 10", ""), "loop"),
        (GOOD.replace("size = 64", 'kind = "folder"'), "name a folder"),
        ("output = ", "not valid TOML"),
        ("", "output"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_recipe(path, AutoencoderRecipe)
    assert said in str(error.value)
    assert "recipe.toml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.toml", "recipe.ini"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    if name.endswith(".ini"):
        written(tmp_path, GOOD, name)
    with pytest.raises(UserError, match=name):
        read_recipe(tmp_path / name, AutoencoderRecipe)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_recipes_in_the_repository_are_valid(path: Path) -> None:
    if path.stem in STAGES:
        read_recipe(path, STAGES[path.stem])


def test_everyday_objects_are_named_in_one_word(tmp_path: Path) -> None:
    recipe = read_recipe(
        written(tmp_path, GOOD.replace("size = 64", 'size = 64\nobjects = "everyday"')), AutoencoderRecipe
    )
    assert recipe.data.objects == EVERYDAY
    assert set(EVERYDAY) <= set(OBJECTS) and len(EVERYDAY) >= 48


def test_a_model_card_names_what_was_trained_on() -> None:
    recipe = read_recipe(RECIPES / "embedded" / "unet.toml", UNetRecipe)
    assert recipe.told_card.objects == recipe.data.objects == EVERYDAY
    assert recipe.told_card.languages == ("en", "it")
