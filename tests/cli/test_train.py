"""`diafano train`: three recipes become a model that `diafano generate` draws with; a mistake is one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from diafano.cli import main as cli
from diafano.cli.train import line
from diafano.pictures.files import read_picture
from diafano.training.loop import Progress

LOOP = """
[loop]
steps = 4
batch = 4
precision = "fp32"
tensorboard = false
log_every = 2
"""
DATA = """
[data]
size = 64
examples = 8
"""
RECIPES = {
    "autoencoder": """
output = "runs/autoencoder"
[network]
widths = [8, 8, 8]
layers = 1
groups = 4
middle_attention = false
""",
    "text": """
output = "runs/text"
vocabulary = 600
picture_widths = [8, 8]
shared_width = 8
[network]
vocabulary = 600
width = 16
mlp_width = 32
layers = 1
heads = 2
start_token = 0
end_token = 1
pad_token = 1
""",
    "unet": """
output = "runs/unet"
autoencoder = "runs/autoencoder"
text = "runs/text"
[network]
widths = [8, 16]
layers = 1
attention = [false, true]
heads = [2, 2]
text_width = 16
groups = 4
[schedule]
[card]
name = "tiny"
size = [64, 64]
steps = 2
guidance = 2.0
""",
}


def write_recipes(folder: Path) -> None:
    for stage, text in RECIPES.items():
        (folder / f"{stage}.toml").write_text(text + DATA + LOOP)


def test_three_stages_make_a_model_that_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    for stage in RECIPES:
        assert cli.run(["train", stage, "--config", f"{stage}.toml", "--device", "cpu"]) == 0
        out, error = capsys.readouterr()
        assert out == f"runs/{stage}\n"
        lines = [text for text in error.splitlines() if text.startswith("step ")]
        assert [text.split()[1] for text in lines] == ["2/4", "4/4"]
        assert "loss" in lines[0]
    assert cli.run(["generate", "a cat", "--model", "runs/unet/model", "--output", "cat.png"]) == 0
    assert read_picture("cat.png").size == (64, 64)


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    arguments = ["train", "autoencoder", "--config", "autoencoder.toml", "--device", "cpu"]
    assert cli.run(arguments) == 0
    longer = (tmp_path / "autoencoder.toml").read_text().replace("steps = 4", "steps = 6")
    (tmp_path / "autoencoder.toml").write_text(longer)
    capsys.readouterr()
    assert cli.run(arguments) == 0
    error = capsys.readouterr().err
    assert "goes on after step 4" in error
    assert "step 6/6" in error
    assert "step 2/6" not in error
    assert cli.run(arguments) == 0
    assert "all 6 steps were done before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("steps = 4", "steps = 0"), "loop.steps"),
        (("steps = 4", 'steps = "many"'), "loop.steps"),
        (("batch = 4", "bacth = 4"), "bacth"),
        (("[data]", "[data"), "TOML"),
        (("examples = 8", 'objects = ["unicorn horn"]'), "unicorn horn"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(
    change: tuple[str, str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    recipe = tmp_path / "autoencoder.toml"
    assert change[0] in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(*change))
    assert cli.run(["train", "autoencoder", "--config", recipe.name]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert named in error
    assert error.startswith("diafano: ")
    assert error.count("\n") == 1


def test_a_missing_recipe_is_one_sentence_of_the_real_command(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "diafano", "train", "unet", "--config", "absent.toml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 2
    assert "absent.toml" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_line_about_a_run() -> None:
    progress = Progress(40, 100, {"loss": 0.12345, "rate": 1e-5}, 56.71, 3723.4)
    assert line(progress) == "step 40/100  loss 0.1235  rate 1e-05  56.7 pictures/s  1:02:03 left"
    assert line(Progress(1, 2, {}, 1.0, 62.0)).endswith("1:02 left")
