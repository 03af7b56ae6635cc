"""Options from dataclasses, and commands that are imported when they are asked for."""

import ast
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import typer

import diafano.cli
from diafano.cli import main as cli
from diafano.cli.panels import InPanels, setting_option, typed_command
from diafano.request.request import Settings

MOST_ARGUMENTS = 12
SOURCES = sorted(Path(diafano.cli.__file__).parent.glob("*.py"))


@dataclass(frozen=True)
class Colours:
    title: ClassVar[str] = "Colours"

    red: Annotated[int, typer.Option(help="How red.", metavar="N")] = 3
    names: Annotated[list[str], typer.Option("--name", help="Of colours.", metavar="NAME")] = field(
        default_factory=list
    )


@dataclass(frozen=True)
class Options:
    what: Annotated[str, typer.Argument(help="What it is.", metavar="WHAT")]
    colours: Colours = field(default_factory=Colours)
    settings: Settings = field(default_factory=Settings)


def run(*arguments: str) -> list[Options]:
    seen: list[Options] = []

    def command(options: Options, loud: Annotated[bool, typer.Option("--loud", help="Whether.")] = False) -> None:
        """What it does."""
        seen.append(options)

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=InPanels)(typed_command(command))
    app(list(arguments), standalone_mode=False)
    return seen


def test_what_is_typed_comes_in_objects() -> None:
    (seen,) = run("a fox", "--red", "5", "--name", "a", "--name", "b", "--steps", "7", "--no-tiles", "--size", "64x64")
    assert (seen.what, seen.colours) == ("a fox", Colours(5, ["a", "b"]))
    assert {name: value for name, value in seen.settings.items() if value is not None} == {
        **{"steps": 7, "tiles": False, "size": "64x64"}
    }
    (seen,) = run("a fox")
    assert seen.colours == Colours()
    assert not any(value is not None for value in seen.settings.values())


def test_options_stand_in_their_panels(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "\nColours:\n  --red N      How red.  [default: 3]\n  --name NAME  Of colours.\n" in text
    assert text.index("\nArguments:\n") < text.index("\nColours:\n") < text.index("\nWhat is drawn:\n")
    assert "\nOptions:\n  --loud  Whether.\n" in text


def test_a_setting_is_typed_as_the_table_says() -> None:
    assert setting_option("tiles").default == "--tiles/--no-tiles"
    assert setting_option("invert_mask").default == "--invert-mask"
    assert setting_option("steps").metavar == "N"


def test_a_commands_code_comes_when_it_is_asked_for() -> None:
    loaded = "sorted(name for name in sys.modules if name.startswith('diafano.cli.') or name == 'pydantic')"
    code = f"import sys; from diafano.cli.main import run; run(['--help']); print(*{loaded})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "diafano.cli.late diafano.cli.main diafano.cli.messages"


def test_every_command_that_is_listed_is_there() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert list(commands) == list(cli.Commands.names())
    for name in commands:
        assert commands[name].name == name
        assert commands[name].help
    assert "paint" not in commands


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_function_takes_more_than_a_hand_can_hold(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            assert len(taken) <= MOST_ARGUMENTS, f"{node.name} takes {len(taken)} arguments"
