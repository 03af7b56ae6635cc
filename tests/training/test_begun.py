"""A run that goes on with another recipe than it was begun with says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from diafano.cli import main as cli
from diafano.training.begun import FILE, FREE, changes, keep
from diafano.training.loop import CHECKPOINT
from diafano.training.recipe import AutoencoderRecipe, LoopRecipe, Section, TextRecipe, UNetRecipe

RECIPE: dict[str, Any] = {
    "output": "runs/a",
    "data": {"size": 64, "examples": 8},
    "network": {"widths": [8, 8, 8], "layers": 1, "groups": 4, "middle_attention": False},
    "loop": {"steps": 4},
}


def changed(**sections: Mapping[str, object]) -> AutoencoderRecipe:
    others = {name: {**RECIPE[name], **said} for name, said in sections.items()}
    return AutoencoderRecipe.model_validate({**RECIPE, **others})


def test_a_run_that_is_yet_to_begin_has_no_changes(tmp_path: Path) -> None:
    assert changes(tmp_path, changed()) == []
    keep(tmp_path, changed())  # begun, and stopped before the first checkpoint: it begins anew
    assert changes(tmp_path, changed(data={"size": 128})) == []


def test_what_another_recipe_says(tmp_path: Path) -> None:
    keep(tmp_path, changed())
    (tmp_path / CHECKPOINT).touch()
    assert changes(tmp_path, changed()) == []
    assert changes(tmp_path, changed(data={"size": 128})) == ["data.size is 128, was 64"]
    assert changes(tmp_path, changed(loop={"learning_rate": 0.5})) == ["loop.learning_rate is 0.5, was 0.0001"]
    more = {"steps": 40, "workers": 2, "accumulate": 2, "checkpoint_every": 3}
    assert changes(tmp_path, changed(loop=more)) == ["loop.accumulate is 2, was 1"]
    assert changes(tmp_path, changed(data={"objects": ["cat"]})) == ['data.objects is ["cat"], was nothing']


@pytest.mark.parametrize("kind", [AutoencoderRecipe, TextRecipe, UNetRecipe])
def test_what_may_change_is_there(kind: type[Section]) -> None:
    assert {key for key in FREE if "." not in key} <= kind.model_fields.keys()
    assert {key.removeprefix("loop.") for key in FREE if key.startswith("loop.")} <= LoopRecipe.model_fields.keys()


def test_a_broken_record_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).touch()
    (tmp_path / FILE).write_text("{")
    assert changes(tmp_path, changed()) == []


def test_the_command_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.test_train import write_recipes

    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    arguments = ["train", "autoencoder", "--config", "autoencoder.toml", "--device", "cpu"]
    assert cli.run(arguments) == 0
    assert "another than" not in capsys.readouterr().err
    path = tmp_path / "autoencoder.toml"
    path.write_text(path.read_text().replace("size = 64", "size = 32"))
    assert cli.run(arguments) == 0
    error = capsys.readouterr().err
    assert "all 4 steps were done before" in error
    assert "the recipe is another than the one that the run in runs/autoencoder was begun with" in error
    assert "(data.size is 32, was 64)" in error
