"""What the README tells people to type exists."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import diafano
from diafano.cli import app
from diafano.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
TYPED = [
    line.strip().removeprefix("$ ").partition("  #")[0]
    for language, text in BLOCKS
    if language in ("", "sh", "bash", "console")
    for line in text.replace("\\\n", " ").splitlines()
]


def test_the_first_command_is_there() -> None:
    assert any(line.startswith("make image") for line in TYPED)


@pytest.mark.parametrize("line", [line for line in TYPED if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert shlex.split(line)[1] in targets


@pytest.mark.parametrize("line", [line for line in TYPED if re.match(r"(\.venv/bin/)?diafano ", line)])
def test_commands_and_options_exist(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    if name.startswith("-"):
        return
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands
    known = {option for parameter in commands[name].params for option in parameter.opts} | {"--help", "-h"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("code", PYTHON)
def test_python_names_exist(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "diafano":
                assert hasattr(diafano, node.attr)
            elif node.value.id == "model":
                parts = {"tokenizer", "text_encoder", "unet", "autoencoder", "schedule", "card"}
                assert node.attr in parts or hasattr(StableDiffusion, node.attr)
