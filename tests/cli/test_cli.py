"""The command line: what it writes, and that a mistake is one sentence and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diafano
from diafano.cli import generate as cli_generate
from diafano.cli import main as cli
from diafano.cli.targets import name_files
from diafano.engine import devices
from diafano.errors import UserError
from diafano.files import slug
from diafano.pictures.files import read_parameters, read_picture
from diafano.stable_diffusion import StableDiffusion

COMMANDS = ("generate", "tokens", "noise", "inspect", "train", "evaluate")


def command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "diafano", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def assert_one_sentence(code: int, out: str, error: str) -> None:
    assert code == 2
    assert out == ""
    assert error.startswith("diafano: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


# ---- help


def test_help_needs_nothing_heavy() -> None:
    # torch alone takes more than twice the half second of CPU time in which help has to answer.
    heavy = ("torch", "numpy", "PIL", "rich", "tokenizers", "diafano.stable_diffusion")
    shown = f"print(*[x for x in {heavy} if x in sys.modules])"
    code = f"import sys; from diafano.cli.main import run; run(['--help']); {shown}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in result.stdout for name in COMMANDS)
    assert result.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    import typer.main

    group = typer.main.get_command(cli.app)
    parameters = group.commands[name].params  # type: ignore[attr-defined]
    assert parameters
    unexplained = [parameter.name for parameter in parameters if not getattr(parameter, "help", None)]
    assert not unexplained


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "generate" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{diafano.__version__}\n"


# ---- generate


def test_the_command_draws_what_python_draws(tiny_folder: Path, tiny_model: StableDiffusion, tmp_path: Path) -> None:
    result = command("generate", "a penguin", "--model", tiny_folder, "--seed", 3, "--output", "p.png", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "p.png\n", "")
    drawn = tiny_model.generate("a penguin", seed=3)[0]
    difference = np.abs(np.array(read_picture(tmp_path / "p.png"), int) - np.array(drawn, int))
    assert difference.max() <= 1
    assert read_parameters(tmp_path / "p.png") == drawn.info["parameters"]


def test_the_number_format_chosen_for_a_big_model_is_said_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "SMALL_MODEL", 0)
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: False)
    asked = ["generate", "a", "--seed", "1", "--model", str(tiny_folder), "--device", "cpu"]
    for dtype, notes in (("auto", 1), ("float32", 0)):
        assert cli.run([*asked, "--dtype", dtype, "--output", str(tmp_path / f"{dtype}.png")]) == 0
        said = capsys.readouterr().err
        assert said.count("diafano: note: dtype auto is float32 here: this processor has no") == notes, said
        assert said.count("\n") == notes


def test_every_setting_arrives(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["generate", "two apples", "--model", str(tiny_folder), "--output", str(tmp_path / "a.jpg")]
    arguments += ["--negative", "a fox", "--steps", "2", "--guidance", "3.5", "--sampler", "euler_ancestral"]
    arguments += ["--schedule", "karras", "--seed", "11", "--size", "128x64", "--eta", "0.5", "--dtype", "float32"]
    arguments += ["--guidance-interval", "0,0.5", "--guidance-rescale", "0.7"]
    assert cli.run([*arguments, "--device", "cpu"]) == 0
    lines = (read_parameters(tmp_path / "a.jpg") or "").splitlines()
    assert lines[:2] == ["two apples", "Negative prompt: a fox"]
    for setting in ("Steps: 2", "Euler a", "Karras", "CFG scale: 3.5", "Seed: 11", "Size: 128x64", "Eta: 0.5"):
        assert setting in lines[2]
    assert 'Guidance interval: "0,0.5", Guidance rescale: 0.7' in lines[2]
    assert read_picture(tmp_path / "a.jpg").size == (128, 64)


def test_a_folder_gets_a_file_for_each_seed(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "Two Äpples!", "--model", str(tiny_folder), "--count", "2", "--steps", "1", "--seed", "5"]
    for _ in range(2):
        assert cli.run([*arguments, "--output", str(tmp_path)]) == 0
    names = ["two-apples-5.png", "two-apples-6.png", "two-apples-5-2.png", "two-apples-6-2.png"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in names]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert "Seed: 6" in (read_parameters(tmp_path / "two-apples-6.png") or "")


def test_a_seed_drawn_by_chance_is_told_and_stored(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    assert cli.run(["generate", "", "--model", str(tiny_folder), "--steps", "1", "--output", str(path)]) == 0
    word, seed = capsys.readouterr().err.split()
    assert word == "seed"
    assert f"Seed: {seed}," in (read_parameters(path) or "")


def test_several_pictures_on_one_sheet(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    arguments = ["generate", "a fox", "--model", str(tiny_folder), "--seed", "1", "--count", "3", "--grid", str(sheet)]
    assert cli.run([*arguments, "--output", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(sheet)
    assert read_picture(sheet).size == (2 * 64 + 2, 2 * 64 + 2)
    assert "Seed: 1" in (read_parameters(sheet) or "")
    second = np.asarray(read_picture(tmp_path / "a-2.png"))
    assert (np.asarray(read_picture(sheet))[:64, 66:] == second).all()


def test_the_filmstrip_ends_with_the_picture(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["generate", "a penguin", "--model", str(tiny_folder), "--seed", "1", "--steps", "5"]
    arguments += ["--output", str(tmp_path / "a.png"), "--filmstrip", str(tmp_path / "strip.png")]
    assert cli.run(arguments) == 0
    strip = read_picture(tmp_path / "strip.png")
    assert strip.height == 64
    assert strip.width >= 5 * 64
    picture = read_picture(tmp_path / "a.png")
    last = strip.crop((strip.width - 64, 0, strip.width, 64))
    assert np.abs(np.array(last, int) - np.array(picture, int)).max() <= 1
    first = strip.crop((0, 0, 64, 64))
    assert first.tobytes() != last.tobytes()
    assert read_parameters(tmp_path / "strip.png") == read_parameters(tmp_path / "a.png")


def test_a_prompt_too_long_is_a_note_not_an_error(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ["generate", "apple " * 100, "--model", str(tiny_folder), "--seed", "1", "--steps", "1"]
    assert cli.run([*long, "--output", str(tmp_path / "a.png")]) == 0, "all of it is told"
    capsys.readouterr()
    arguments = [*long, "--like", "diffusers"]
    assert cli.run([*arguments, "--output", str(tmp_path / "b.png")]) == 0
    error = capsys.readouterr().err
    assert error.startswith("diafano: note: ")
    assert error.count("\n") == 1


WRONG = {
    "steps 0": ["--steps", "0"],
    "size 100": ["--size", "100x100"],
    "malformed size": ["--size", "100"],
    "unknown sampler": ["--sampler", "dpm5"],
    "guidance NaN": ["--guidance", "nan"],
    "guidance with a gap": ["--guidance", "7:"],
    "guidance interval": ["--guidance-interval", "0.8,0.2"],
    "guidance rescale": ["--guidance-rescale", "1.5"],
    "missing folder": ["--output", "absent/a.png"],
    "unknown schedule": ["--schedule", "steep"],
    "negative seed": ["--seed", "-1"],
    "no picture": ["--count", "0"],
    "steps not a number": ["--steps", "many"],
    "unknown format": ["--output", "a.gif"],
    "folder in a folder that is not there": ["--output", "absent/within/"],
    "file without an ending": ["--output", "/dev/null"],
    "missing folder of the strip": ["--filmstrip", "absent/a.png"],
    "missing folder of the grid": ["--grid", "absent/a.png"],
    "unknown dtype": ["--dtype", "float8"],
    "unknown device": ["--device", "abacus"],
    "missing model": ["--model", "absent"],
    "eta without use": ["--sampler", "heun", "--eta", "0.5"],
    "unknown option": ["--colour", "red"],
    "second prompt": ["a fox"],
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_a_wrong_value_is_one_sentence(
    kind: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = cli.run(["generate", "a penguin", "--model", str(tiny_folder), *WRONG[kind]])
    assert_one_sentence(code, *capsys.readouterr())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(WRONG)[:6])
def test_a_wrong_value_is_one_sentence_of_the_real_command(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    result = command("generate", "a penguin", "--model", tiny_folder, *WRONG[kind], cwd=tmp_path)
    assert_one_sentence(result.returncode, result.stdout, result.stderr)
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "diafano", "generate", b"a \xff fox", "--model", tiny_folder, "--output", "a.png"],
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert_one_sentence(result.returncode, result.stdout.decode(), result.stderr.decode())


@pytest.mark.parametrize("arguments", [["generate"], ["paint"], ["noise"], ["train", "judge", "--config", "x.toml"]])
def test_a_mistyped_command_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_sentence(cli.run(arguments), *capsys.readouterr())


def test_no_embedded_model_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diafano.checkpoints.loading.EMBEDDED", tmp_path)
    assert_one_sentence(cli.run(["generate", "a fox", "--output", str(tmp_path)]), *capsys.readouterr())


def test_the_embedded_model_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "a zebra", "--steps", "1", "--seed", "1", "--model", "embedded", "--output", "a.png"]
    assert cli.run(arguments) == 0
    assert "has never seen" in capsys.readouterr().err  # it is known to be that one
    assert cli.run(["generate", "a zebra", "--steps", "1", "--seed", "1", "--output", "b.png"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (tmp_path / "embedded").mkdir()  # a folder of that name is what is meant then
    capsys.readouterr()
    assert_one_sentence(cli.run(arguments), *capsys.readouterr())


# ---- when things go wrong on the way


def raising(error: BaseException) -> object:
    def generate(*_: object, **__: object) -> None:
        raise error

    return generate


def test_out_of_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        monkeypatch.setattr(cli_generate, "generate", raising(error))
        assert_one_sentence(cli.run(["generate", "a fox"]), *capsys.readouterr())


def test_a_pydantic_error_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pydantic import BaseModel, ValidationError, field_validator

    class Recipe(BaseModel):
        rate: float = 0.0

        @field_validator("rate")
        @classmethod
        def check(cls, rate: float) -> float:
            if rate > 1:
                raise UserError("the rate is at most 1")
            return rate

    for value, text in (("fast", "rate 'fast' is not possible"), (2, "the rate is at most 1")):
        with pytest.raises(ValidationError) as caught:
            Recipe.model_validate({"rate": value})
        monkeypatch.setattr(cli_generate, "generate", raising(caught.value))
        code = cli.run(["generate", "a fox"])
        out, error = capsys.readouterr()
        assert_one_sentence(code, out, error)
        assert text in error


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_generate, "generate", raising(KeyError("ours")))
    with pytest.raises(KeyError, match="ours"):
        cli.run(["generate", "a fox"])


def test_control_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli_generate, "generate", raising(KeyboardInterrupt()))
    assert cli.run(["generate", "a fox"]) == 130
    assert capsys.readouterr() == ("", "diafano: interrupted\n")


@pytest.mark.slow

# ---- names of files


def test_names_of_files(tmp_path: Path) -> None:
    assert name_files(tmp_path / "a.png", "x", ["7"]) == [tmp_path / "a.png"]
    assert name_files(tmp_path / "a.png", "x", ["7", "8"]) == [tmp_path / "a-1.png", tmp_path / "a-2.png"]
    assert slug("Two red äpples, on blue!") == "two-red-apples-on-blue"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("🍎") == "picture"
    assert slug("蘋果") == "蘋果"
    assert len(slug("word " * 100)) <= 60


# ---- noise


def test_noise_drowns_the_picture_from_left_to_right(tiny_folder: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 60), (30, 30, 30))
    picture.paste((220, 40, 40), (20, 10, 60, 50))
    picture.save(tmp_path / "a.png")
    arguments = ["noise", str(tmp_path / "a.png"), "--model", str(tiny_folder), "--steps", "4"]
    for name in ("one.png", "two.png"):
        assert cli.run([*arguments, "--output", str(tmp_path / name)]) == 0
    strip = read_picture(tmp_path / "one.png")
    assert strip.size == (5 * 64 + 4 * 2, 2 * 64 + 2)
    frames = [np.array(strip.crop((66 * i, 0, 66 * i + 64, 64)), float) for i in range(5)]
    distance = [np.abs(frame - frames[0]).mean() for frame in frames]
    assert distance == sorted(distance)
    assert distance[-1] > 40
    assert np.abs(frames[0][32, 32] - (220, 40, 40)).max() < 3
    assert strip.tobytes() == read_picture(tmp_path / "two.png").tobytes()  # the seed decides


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "0"], ["--steps", "1000"], ["--seed", "-1"], ["--output", "absent/a.png"], ["--model", "x"]],
)
def test_impossible_noise_is_one_sentence(
    arguments: list[str], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code = cli.run(["noise", str(tmp_path / "a.png"), "--model", str(tiny_folder), *arguments])
    assert_one_sentence(code, *capsys.readouterr())


def test_noise_for_no_picture_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_sentence(
        cli.run(["noise", str(tmp_path / "a.png"), "--output", str(tmp_path / "b.png")]), *capsys.readouterr()
    )


# ---- inspect


def test_inspect_shows_the_originals_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", "sd1"]) == 0
    text = capsys.readouterr().out
    for fact in ("859,520,964", "83,653,863", "123,060,480", "(3, 512, 512)", "(4, 64, 64)", "(77, 768)"):
        assert fact in text


def test_inspect_follows_the_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", "sd2", "--size", "512x768"]) == 0
    text = capsys.readouterr().out
    assert "(3, 768, 512)" in text
    assert "(4, 96, 64)" in text
    assert "(77, 1024)" in text


def test_inspect_reads_a_folder(
    tiny_folder: Path, tiny_model: StableDiffusion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["inspect", str(tiny_folder)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny: a picture of 64x64")
    assert "(4, 8, 8)" in text
    for part in (tiny_model.unet, tiny_model.text_encoder):
        assert f"{sum(weights.numel() for weights in part.parameters()):,}" in text


def test_inspect_needs_no_weights_and_no_card(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "configs"
    for path in tiny_folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors" and path.name != "diafano.json":
            copy = folder / path.relative_to(tiny_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    assert cli.run(["inspect", str(folder)]) == 0
    assert "a picture of 64x64" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["sd9"], ["sd1", "--size", "100x100"], ["sd1", "--size", "big"]])
def test_impossible_inspection_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_sentence(cli.run(["inspect", *arguments]), *capsys.readouterr())


def test_inspect_names_a_broken_config(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "broken"
    for path in tiny_folder.rglob("*.*"):
        copy = folder / path.relative_to(tiny_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm_num_groups": "many"}))
    code = cli.run(["inspect", str(folder)])
    out, error = capsys.readouterr()
    assert_one_sentence(code, out, error)
    assert "unet" in error


# ---- evaluate


@pytest.mark.parametrize("arguments", [["--grid", "absent/a.png"], ["--prompts", "0"], ["--prompts", "all"]])
def test_impossible_evaluation_is_one_sentence(
    arguments: list[str], tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_one_sentence(cli.run(["evaluate", "--model", str(tiny_folder), *arguments]), *capsys.readouterr())


def test_samplers_are_listed_with_their_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    from diafano.sampling.samplers.table import SAMPLERS
    from diafano.sampling.sigmas import SCHEDULES

    assert cli.run(["samplers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows: list[Any] = [*SAMPLERS.values(), *SCHEDULES.values()]
    for row in rows:
        line = next(line for line in lines if line.startswith(f"{row.name} ") and row.label in line)
        assert all(alias in line for alias in row.aliases)
