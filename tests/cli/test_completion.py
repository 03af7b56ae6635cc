"""Pressing the tab key: what is offered, by the command itself and through a real shell; and the short help."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diafano.cli.completion import LISTED, MOST_OFFERED, weights
from diafano.request.request import Request
from diafano.request.settings import SETTINGS

DIAFANO = Path(sys.executable).with_name("diafano")
FUNCTION = "_diafano_completion"


def offered(folder: Path, *words: str) -> list[str]:
    """What the command says to bash when the last of the words is begun."""
    asked = {"_DIAFANO_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("diafano", *words))}
    environment = {**os.environ, **asked, "COMP_CWORD": str(len(words))}
    command = [sys.executable, "-m", "diafano"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Models and add-ons in folders, as people keep them."""
    for name in (
        *("models/sd15.safetensors", "models/old/v1.ckpt", "models/dreams/model_index.json"),
        *("models/dreams/unet/diffusion_pytorch_model.safetensors", "loras/ink.safetensors", "loras/notes.txt"),
        *("loras/people/Ada.safetensors", ".hidden/secret.safetensors", "loras/.part.safetensors"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("gen",), {"generate"}),
        (("train", "au"), {"autoencoder"}),
        (("generate", "--samp"), {"--sampler"}),
        (("generate", "--sampler", "dpmpp_2"), {"dpmpp_2m", "dpmpp_2s_ancestral"}),
        (("generate", "--schedule", "k"), {"karras", "kl_optimal"}),
        (("generate", "--like", ""), {"diffusers", "a1111", "comfyui"}),
        (("generate", "--vary", "st"), {"steps=", "strength="}),
        (("generate", "--model", "models/"), {"models/sd15.safetensors", "models/old/v1.ckpt", "models/dreams"}),
        (("generate", "--lora", ""), {"loras/ink.safetensors", "loras/people/Ada.safetensors"}),
        (("inspect", "models/d"), {"models/dreams"}),
        (("convert", "models/s"), {"models/sd15.safetensors"}),
    ],
)
def test_what_is_offered(shelf: Path, words: tuple[str, ...], some: set[str]) -> None:
    found = set(offered(shelf, *words))
    assert some <= found
    assert all(one.startswith(words[-1]) for one in found)


def test_only_what_can_be_meant_is_offered(shelf: Path) -> None:
    assert offered(shelf, "generate", "--model", "models/") == [
        *("models/dreams", "models/old/v1.ckpt", "models/sd15.safetensors"),  # of the folder's own files none
    ]
    assert not [one for one in offered(shelf, "generate", "--lora", "") if "notes" in one or "hidden" in one]
    assert offered(shelf, "generate", "--image", "mod") == []  # then the shell offers files


def test_paths_are_written_as_they_were_begun(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shelf))
    assert weights("~/loras/i", folders=False) == ["~/loras/ink.safetensors"]
    assert weights(f"{shelf}/loras/i", folders=False) == [f"{shelf}/loras/ink.safetensors"]
    assert weights(f"{shelf}/nowhere/", folders=True) == []


def test_a_folder_of_very_many_files_is_no_wait(tmp_path: Path) -> None:
    for number in range(2 * MOST_OFFERED):
        (tmp_path / f"{number}.safetensors").touch()
    assert len(weights(f"{tmp_path}/", folders=True)) == MOST_OFFERED


@pytest.mark.parametrize("name", sorted(LISTED.keys() & SETTINGS.keys()))
def test_what_is_listed_is_taken(name: str) -> None:
    for value in LISTED[name]:
        typed: Any = SETTINGS[name].typed(value)
        if name == "fast":  # stands for other settings
            assert typed in range(4)
        elif name == "hires_upscaler":
            Request(prompt="", hires=2.0, hires_upscaler=value, **CARD)
        else:
            Request(prompt="", **{**CARD, name: typed})


CARD: dict[str, Any] = {
    **{"steps": 2, "sampler": "ddim", "schedule": "uniform", "seed": 0, "size": (64, 64), "guidance": 1.0}
}


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def script(name: str) -> str:
    """What `--show-completion` prints in that shell."""
    command = f"'{DIAFANO}' --show-completion; true"
    return subprocess.run([shell(name), "-c", command], capture_output=True, text=True, check=True).stdout


def test_bash_completes(shelf: Path) -> None:
    bash = shell("bash")
    asked = f"""{script("bash")}
    COMP_WORDS=(diafano generate --sampler dpmpp_3); COMP_CWORD=3; {FUNCTION} diafano; echo "${{COMPREPLY[@]}}"
    COMP_WORDS=(diafano generate --lora lo); {FUNCTION} diafano; echo "${{COMPREPLY[@]}}"
    complete -p diafano"""
    path = f"{DIAFANO.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        [bash, "--norc", "-c", asked], env=environment, cwd=shelf, capture_output=True, text=True, check=True
    )
    sampler, loras, complete = done.stdout.splitlines()
    assert sampler == "dpmpp_3m_sde"
    assert loras.split() == ["loras/ink.safetensors", "loras/people/Ada.safetensors"]
    assert "-o default" in complete  # files, where we offer nothing
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_the_other_shells_can_read_theirs(name: str, tmp_path: Path) -> None:
    program = shell(name)
    (tmp_path / "script").write_text(script(name), encoding="utf-8")
    assert f"complete_{name}" in (tmp_path / "script").read_text(encoding="utf-8")
    subprocess.run([program, "-n", tmp_path / "script"], check=True)


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_the_other_shells_are_answered(name: str, shelf: Path) -> None:
    asked = {
        "_DIAFANO_COMPLETE": f"complete_{name}",
        "_TYPER_COMPLETE_ARGS": "diafano generate --sampler dpmpp_3",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "dpmpp_3",
    }
    command = [sys.executable, "-m", "diafano"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert "dpmpp_3m_sde" in done.stdout
    assert "dpmpp_2m" not in done.stdout


def test_installing_it_writes_what_the_shell_reads(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = f"'{DIAFANO}' --install-completion; true"
    subprocess.run([shell("bash"), "-c", command], env=environment, capture_output=True, check=True)
    written = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file())
    assert "_DIAFANO_COMPLETE" in written


def help_of(*arguments: str) -> str:
    command = [sys.executable, "-m", "diafano", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_short_help_has_ten_options_and_tells_of_the_others() -> None:
    short, long = help_of("generate", "--help"), help_of("generate", "--help-all")
    options = [line.split()[0] for line in short.splitlines() if line.startswith("  --")]
    assert len(options) == 10 + 1
    assert options[-1] == "--help-all"
    assert "More, with --help-all" in short
    for row in SETTINGS.values():
        if row.setting.option:
            assert f"--{row.name.replace('_', '-')}" in long
    assert "ControlNets:" in long
    assert "More, with" not in long
    assert len(short.splitlines()) < 50


def test_a_command_with_few_options_has_no_second_help() -> None:
    assert "--help-all" not in help_of("tokens", "--help")
