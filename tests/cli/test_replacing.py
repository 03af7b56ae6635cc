"""What takes the place of something that is there says so: also folders, and trainings that begin anew."""

import json
from pathlib import Path

import pytest

from diafano.checkpoints.diffusers import save_folder
from diafano.cli import main as cli
from diafano.stable_diffusion import StableDiffusion

RECIPE = """
output = "run"
[network]
widths = [8, 8]
layers = 1
groups = 4
middle_attention = false
[data]
size = 16
examples = 2
[loop]
steps = 1
batch = 2
precision = "fp32"
tensorboard = false
"""


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["convert", "MODEL", "copy"], "copy"),
        (["convert", "MODEL", "copy.safetensors"], "copy.safetensors"),
        (["scenes", "copy", "--count", "2", "--size", "16", "--shipped"], "copy"),
    ],
)
def test_the_second_time_it_says_so(
    arguments: list[str],
    target: str,
    narrow_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = [one.replace("MODEL", str(narrow_folder)) for one in arguments]
    assert cli.run(typed) == 0
    assert capsys.readouterr() == (f"{target}\n", "")
    assert cli.run(typed) == 0
    out, error = capsys.readouterr()
    assert out == f"{target}\n"
    assert error.startswith(f"diafano: note: '{target}' was there already") and "replaced" in error
    assert error.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == [target]


def test_an_empty_folder_is_nothing_to_replace(
    tmp_path: Path, narrow_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.run(["convert", str(narrow_folder), str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_of_something_else_is_told_before_the_model_is_read(
    tmp_path: Path, narrow_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diafano.load", lambda *_, **__: pytest.fail("the model was read first"))
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.run(["convert", str(narrow_folder), str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err


def test_training_without_its_checkpoint_says_that_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    typed = ["train", "autoencoder", "--config", "recipe.toml", "--device", "cpu"]
    assert cli.run(typed) == 0
    assert "anew" not in capsys.readouterr().err
    (tmp_path / "run/checkpoint.pt").unlink()
    assert cli.run(typed) == 0
    assert "'run' holds log.jsonl, previews, vae already, and no checkpoint" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/vae/config.json").read_text())


@pytest.fixture(scope="module")
def narrow_folder(narrow_model: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a form that a single file can say."""
    model = narrow_model()  # type: ignore[operator]
    assert isinstance(model, StableDiffusion)
    folder = tmp_path_factory.mktemp("narrow") / "model"
    save_folder(model, folder)
    return folder
