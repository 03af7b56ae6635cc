"""Experiments as people run them: what is drawn, what is skipped, what is told, and what stays when one is stopped."""

import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.jobs.experiment.axes import read_axis
from diafano.jobs.experiment.running import Inputs, run_experiment, weights_hash
from diafano.pictures.files import read_parameters, read_picture
from diafano.stable_diffusion import StableDiffusion
from helpers import told


def run(model: StableDiffusion, folder: Path, *axes: str, **settings: Any) -> list[float | None]:
    """The seconds of each cell."""
    done = run_experiment(model, "a penguin", [read_axis(axis) for axis in axes], folder, **{"steps": 2, **settings})
    return [one.seconds for one in done]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_cell_is_the_picture_that_generate_draws(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    run(tiny_model, tmp_path / "x", "steps=1,3", "sampler=ddim,euler_ancestral", seed=5)
    table = rows(tmp_path / "x")
    assert [(row["steps"], row["sampler"]) for row in table] == [
        ("1", "ddim"),
        ("3", "ddim"),
        ("1", "euler_ancestral"),
        ("3", "euler_ancestral"),
    ]
    for row in table:
        (drawn,) = tiny_model.generate("a penguin", steps=int(row["steps"]), sampler=row["sampler"], seed=5)
        path = tmp_path / "x" / row["file"]
        assert np.array_equal(np.asarray(read_picture(path)), np.asarray(drawn))
        assert (read_parameters(path) or "").startswith(drawn.info["parameters"])
        assert float(row["seconds"]) > 0 and row["size"] == "64x64" and row["seed"] == "5"
    markdown = (tmp_path / "x" / "table.md").read_text(encoding="utf-8").splitlines()
    assert markdown[0] == "| file | steps | sampler | seconds |" and len(markdown) == 2 + 4
    assert read_picture(tmp_path / "x" / "grid.png").width > 2 * 128


def test_what_is_there_is_not_drawn_again(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    assert None not in run(tiny_model, tmp_path / "x", "seed=1,2")
    before = rows(tmp_path / "x")
    assert run(tiny_model, tmp_path / "x", "seed=1,2") == [None, None]
    assert rows(tmp_path / "x") == before, "with the time that it took"
    first, second, third = run(tiny_model, tmp_path / "x", "seed=1,2,3")
    assert (first, second) == (None, None) and third is not None


def test_names_do_not_decide(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    run(tiny_model, tmp_path / "x", "seed=1,2")
    one, two = sorted((tmp_path / "x").glob("*seed*.png"))
    one.rename(tmp_path / "x" / "mine.png")
    assert run(tiny_model, tmp_path / "x", "seed=1,2") == [None, None]
    assert {row["file"] for row in rows(tmp_path / "x")} == {"mine.png", two.name}
    Image.new("RGB", (64, 64)).save(two)  # it has the name, and nothing is written in it
    assert [seconds is None for seconds in run(tiny_model, tmp_path / "x", "seed=1,2")] == [True, False]
    assert two.with_stem(f"{two.stem}-2").is_file() and not np.asarray(read_picture(two)).any(), "nothing is replaced"


def test_other_settings_models_and_inputs_are_drawn(
    tiny_model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh(**settings: Any) -> bool:
        return run(tiny_model, tmp_path / "x", "seed=1", **settings) != [None]

    assert fresh() and not fresh()
    assert fresh(steps=3) and fresh(negative="a cat") and fresh(guidance_rescale=0.5)
    picture, other = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    assert fresh(inputs=Inputs(picture)) and fresh(inputs=Inputs(other)) and not fresh(inputs=Inputs(picture))
    with told("the mask is empty"):
        assert fresh(inputs=Inputs(picture, other))
    weight = tiny_model.unet.conv_in.weight.data
    changed = weight.clone() * 1.01
    with monkeypatch.context() as patch:
        patch.setattr(tiny_model.unet.conv_in.weight, "data", changed)
        assert fresh() and not fresh()
    tiny_model.unet.conv_in.weight.data = weight
    assert not fresh()


def test_the_hash_of_weights_knows_numbers_and_formats(tiny_model: StableDiffusion) -> None:
    assert re.fullmatch(r"[0-9a-f]{10}", weights_hash(tiny_model))
    assert weights_hash(tiny_model) == weights_hash(tiny_model)


@pytest.mark.parametrize(
    ("axes", "settings", "complaint"),
    [
        (["steps=2,0"], {}, "steps 0 is not possible"),
        (["steps=ten"], {}, "steps 'ten' is not possible"),
        (["sampler=ddim,dpm5"], {}, "unknown sampler 'dpm5'"),
        (["size=64x64,100x100"], {}, "100x100"),
        (["eta=0,1", "sampler=ddim,dpmpp_2m"], {}, "has no eta"),
        (["strength=0.5"], {}, "strength"),
        (["steps=1,2"], {"count": 2}, "vary the seed"),
        (["guidance=7,7:x"], {}, "guidance '7:x' is not possible"),
    ],
)
def test_a_wrong_value_is_told_before_anything_is_drawn(
    tiny_model: StableDiffusion, tmp_path: Path, axes: list[str], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        run(tiny_model, tmp_path / "x", *axes, **settings)
    assert not (tmp_path / "x").exists()


def test_a_drawn_cell_can_be_drawn_again_alone(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [
        "generate",
        "a fox",
        "--model",
        str(tiny_folder),
        "--vary",
        "steps=1,2",
        "--output",
        str(tmp_path / "x"),
    ]
    assert cli.run(arguments) == 0
    (one,) = (tmp_path / "x").glob("*steps-2.png")
    again = ["generate", "--from", str(one), "--model", str(tiny_folder), "--output", str(tmp_path / "again.png")]
    assert cli.run(again) == 0
    assert np.array_equal(np.asarray(read_picture(one)), np.asarray(read_picture(tmp_path / "again.png")))


# ---- the command


def test_prompts_of_a_file(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("a fox\na cat\n", encoding="utf-8")
    generate = ["generate", "--model", str(tiny_folder), "--steps", "1", "--output", str(tmp_path / "x")]
    arguments = [*generate, "--prompts", str(tmp_path / "p.txt"), "--vary", "seed=3,4"]
    assert cli.run(arguments) == 0
    out, error = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "x" / name) for name in ("grid.png", "table.csv", "table.md")]
    assert "pictures drawn: 4, there already: 0" in error
    assert [(row["prompt"], row["seed"]) for row in rows(tmp_path / "x")] == [
        ("a fox", "3"),
        ("a fox", "4"),
        ("a cat", "3"),
        ("a cat", "4"),
    ]
    (tmp_path / "p.txt").write_text('{"prompt": "a fox", "seed": 3}\n{"prompt": "two", "seed": 9, "steps": 2}\n')
    assert cli.run([*generate, "--prompts", str(tmp_path / "p.txt")]) == 0
    assert "pictures drawn: 1, there already: 1" in capsys.readouterr().err


WRONG = {
    "axis": ["a fox", "--vary", "stepz=1,2"],
    "value": ["a fox", "--vary", "steps=1,x"],
    "picture file": ["a fox", "--vary", "steps=1,2", "--output", "a.png"],
    "folder that is nowhere": ["a fox", "--vary", "steps=1,2", "--output", "a/b"],
    "filmstrip": ["a fox", "--vary", "steps=1,2", "--filmstrip", "a.png"],
    "prompt and prompts": ["a fox", "--prompts", "p.txt"],
    "no prompt": ["--vary", "steps=1,2"],
    "no file of prompts": ["--prompts", "absent.txt"],
    "four axes": ["a fox", *(f"--vary={name}=1" for name in ("steps", "seed", "clip_skip", "guidance"))],
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_one_sentence(
    kind: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a fox")
    assert cli.run(["generate", "--model", str(tiny_folder), *WRONG[kind]]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("diafano: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_stopping_keeps_what_is_done(
    tiny_model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(drawn: object) -> None:
        raise KeyboardInterrupt

    axes = [read_axis("seed=1,2,3")]
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny_model, "a penguin", axes, tmp_path / "x", on_drawn=stop, steps=2)
    assert len(rows(tmp_path / "x")) == 1 and (tmp_path / "x" / "grid.png").is_file()
    assert run(tiny_model, tmp_path / "x", "seed=1,2,3")[0] is None


@pytest.mark.slow
def test_control_c_keeps_what_is_done(tiny_folder: Path, tmp_path: Path) -> None:
    vary = ["--vary", f"seed={','.join(map(str, range(300)))}", "--output", "x"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diafano", "generate", "a fox", "--model", str(tiny_folder), *vary],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs are started deaf to it
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("x/*seed*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    pictures = list(tmp_path.glob("x/*seed*.png"))
    assert len(pictures) >= 3 and not list(tmp_path.glob("x/.*"))
    assert all(read_picture(path).size == (64, 64) for path in pictures)
    assert len(rows(tmp_path / "x")) == len(pictures)
