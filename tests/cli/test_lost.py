"""Finished work is not lost: to another run, to a report that fails, to a second failure; what a file system refuses is
one sentence, of every command."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diafano.cli import main as cli
from diafano.cli.messages import Steady
from diafano.errors import UserError, collect_notes
from diafano.files import new_file, numbered, slug, whole_file, with_number
from diafano.jobs.experiment.axes import read_axis
from diafano.jobs.experiment.running import run_experiment
from diafano.pictures.files import save_new_picture
from diafano.stable_diffusion import StableDiffusion


def start(*arguments: object, cwd: Path, **options: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diafano", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def few(tiny_folder: Path) -> list[str]:
    return ["generate", "a fox", "--model", str(tiny_folder), "--steps", "1", "--seed", "1"]


# ---- names are taken, not looked at


def test_three_runs_into_one_folder_lose_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [*few(tiny_folder), "--count", "20", "--output", "many"]
    runs = [start(*arguments, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(3)]
    told: list[str] = []
    for run in runs:
        out, _ = run.communicate(timeout=300)
        assert run.returncode == 0
        told += out.decode().splitlines()
    there = {str(path.relative_to(tmp_path)) for path in (tmp_path / "many").iterdir()}
    assert len(told) == 60 and set(told) == there


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_there_is_left_alone(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", none)
    for name in ("a.png", "a-2.png"):
        (tmp_path / name).write_text("somebody's")
    assert save_new_picture(Image.new("RGB", (2, 2)), numbered(tmp_path / "a.png")) == tmp_path / "a-3.png"
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a-2.png", "a-3.png"}
    assert (tmp_path / "a-2.png").read_text() == "somebody's"


def test_after_an_error_no_name_is_taken(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_file(numbered(tmp_path / "a")) as (unfinished, _):
        unfinished.touch()
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("letter", ["a", "é", "藋", "🍎"])
def test_names_fit_a_file_system(tmp_path: Path, letter: str) -> None:
    long = tmp_path / (letter * 300 + ".png")
    for path in (next(numbered(long)), with_number(long, 12)):
        path.touch()
        with whole_file(path) as unfinished:
            unfinished.touch()
    assert len(os.fsencode(f"{slug(letter * 300)}-{2**63}-{2**63}-9999.png")) <= 255


# ---- what nobody named is numbered, what was named may be replaced


def test_the_second_picture_replaces_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], [], ["--count", "2"], ["--count", "2"]):
        assert cli.run([*few(tiny_folder), *more]) == 0
    out, error = capsys.readouterr()
    names = ["picture.png", "picture-2.png", "picture-1.png", "picture-3.png", "picture-4.png", "picture-5.png"]
    assert out.splitlines() == names and error == ""
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert cli.run([*few(tiny_folder), "--output", "picture.png"]) == 0
    assert capsys.readouterr() == (
        "picture.png\n",
        "diafano: note: 'picture.png' was there already and has been replaced\n",
    )


def test_a_name_without_an_ending_is_a_folder(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run([*few(tiny_folder), "--output", "many", "--count", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["many/a-fox-1.png", "many/a-fox-2.png"]


# ---- telling cannot fail


@pytest.mark.parametrize("output", ["full", "closed", "broken"])
def test_a_report_that_fails_costs_no_picture(output: str, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [*few(tiny_folder), "--count", "3", "--output", "a.png", "--grid", "grid.png"]
    if output == "full":
        with open("/dev/full", "wb") as full:
            run = start(*arguments, cwd=tmp_path, stdout=full)
    elif output == "closed":
        run = start(*arguments, cwd=tmp_path, preexec_fn=lambda: os.close(1))
    else:
        reading, writing = os.pipe()
        os.close(reading)
        run = start(*arguments, cwd=tmp_path, stdout=writing)
        os.close(writing)
    error = run.communicate(timeout=300)[1].decode()
    assert run.returncode == 1 and "Traceback" not in error and "Exception" not in error
    assert error.count("\n") == (0 if output == "broken" else 1)
    assert {path.name for path in tmp_path.iterdir()} == {"a-1.png", "a-2.png", "a-3.png", "grid.png"}


def test_what_a_terminal_cannot_spell_is_escaped(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        out = Steady(file)
        print("藋 \udcff.png", file=out)
        print("second", file=out)
        out.flush()
    assert out.failure is None
    assert (tmp_path / "out").read_text() == "\\u85cb \\udcff.png\nsecond\n"


def test_a_preview_that_cannot_be_written_does_not_end_the_drawing(
    tiny_model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diafano.explain import preview

    def full(*_: object) -> None:
        raise UserError("No space left")

    watching = preview.Preview(tiny_model, tmp_path / "so_far.png", every=1)
    monkeypatch.setattr(preview, "save_picture", full)
    with collect_notes() as notes:
        assert len(tiny_model.generate("a fox", steps=2, seed=1, on_step=watching)) == 1
    assert "No space left" in notes[0]


def test_a_preview_that_was_never_written_is_not_named_as_written(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise UserError("No space left")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diafano.explain.preview.save_picture", full)
    assert cli.run([*few(tiny_folder), "--output", "a.png", "--preview", "b.png", "--preview-every", "1"]) == 0
    assert capsys.readouterr() == ("a.png\n", "diafano: note: the preview is not up to date: No space left\n")


# ---- the first failure is told


def test_a_full_disk_during_an_experiment_is_one_error(
    tiny_model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Image.Image.save
    room = [2]

    def save(self: Image.Image, *given: object, **options: object) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", save)
    with collect_notes() as notes, pytest.raises(UserError, match=r"fox_seed-3.*No space left"):
        run_experiment(tiny_model, "a fox", [read_axis("seed=1,2,3")], tmp_path / "x", steps=1)
    assert "not up to date" in notes[-1]
    assert len(list((tmp_path / "x").glob("a-fox*.png"))) == 2 and not list((tmp_path / "x").glob(".*"))


# ---- what the file system refuses, of every command

COMMANDS = {
    "generate": ["generate", "a fox", "--output", "{}.png"],
    "folder": ["generate", "a fox", "--output", "{}"],
    "grid": ["generate", "a fox", "--grid", "{}.png"],
    "filmstrip": ["generate", "a fox", "--filmstrip", "{}.png"],
    "preview": ["generate", "a fox", "--preview", "{}.png"],
    "vary": ["generate", "a fox", "--vary", "steps=1,2", "--output", "{}"],
    "noise": ["noise", "a.png", "--output", "{}.png"],
    "evaluate": ["evaluate", "--grid", "{}.png"],
    "convert": ["convert", "MODEL", "{}"],
    "convert to a file": ["convert", "MODEL", "{}.safetensors"],
    "scenes": ["scenes", "{}"],
}
PLACES = {
    "a file in the folder's place": "file/x",
    "no folder": "absent/x",
    "a folder that nobody can write to": "/proc/x",
    "a name too long": "x" * 300,
    "a path too long": "x/" * 3000 + "x",
    "NUL": "a\0b",
    "half a letter": "a\ud800b",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_is_refused_is_one_sentence(
    name: str,
    place: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    Image.new("RGB", (8, 8)).save("a.png")
    model = [] if COMMANDS[name][0] in ("convert", "scenes") else ["--model", str(tiny_folder)]
    arguments = [one.replace("MODEL", str(tiny_folder)).replace("{}", PLACES[place]) for one in COMMANDS[name]]
    assert cli.run([*arguments, *model]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("diafano: ") and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.png"}


@pytest.mark.parametrize("name", ["generate", "folder", "grid", "filmstrip", "noise", "convert"])
def test_a_disk_that_fills_up_is_one_sentence(
    name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(Path, "rename", full)
    monkeypatch.setattr(os, "link", full)
    model = [] if COMMANDS[name][0] == "convert" else ["--model", str(tiny_folder), "--steps", "1", "--seed", "1"]
    arguments = [one.replace("MODEL", str(tiny_folder)).replace("{}", "x") for one in COMMANDS[name]]
    assert cli.run([*arguments, *model]) == 2
    out, error = capsys.readouterr()
    assert out == "" and "No space left" in error and "Traceback" not in error
    assert not [path for path in tmp_path.iterdir() if path.name not in ("a.png", "x")]
