"""The house's arrows: a room imports from rooms below it only, and importing does next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diafano
from house import OUTSIDE, PACKAGE, PAGE, ROOMS, modules, page, purpose

FLOOR = {name: len(ROOMS) - index for index, row in enumerate(ROOMS) for name in row}

FACE = {"__version__"}


def imports_of(path: Path, tree: ast.Module) -> set[str]:
    """Dotted names below `diafano` that a file imports anywhere: at its top, in a function, for its types."""
    package = ["diafano", *path.relative_to(PACKAGE).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            names |= {f"{base}.{alias.name}" if base == "diafano" else base for alias in node.names}
    return {name.removeprefix("diafano.") for name in names if name.split(".")[0] == "diafano" and name != "diafano"}


def test_every_module_has_a_floor() -> None:
    homeless = {name.split(".")[0] for name in modules()} - FLOOR.keys() - {OUTSIDE}
    assert len(FLOOR) - 1 <= 18  # more would be a corridor again
    assert not homeless, f"put {sorted(homeless)} into ROOMS"


def test_the_page_of_the_house_is_what_the_modules_say() -> None:
    assert Path(diafano.__file__).parent.resolve() == PACKAGE.resolve()
    assert PAGE.read_text(encoding="utf-8") == page(), "make docs, or docs/scripts/house.py alone"


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_says_what_it_is(name: str) -> None:
    said = purpose(modules()[name])
    assert 10 < len(said) < 200 and said.endswith((".", "`", '"', ")"))


@pytest.mark.parametrize("name", sorted(modules().keys() - {OUTSIDE}))
def test_imports_point_downward(name: str) -> None:
    path, room = modules()[name], name.split(".")[0]
    upward = [
        imported
        for imported in sorted(imports_of(path, ast.parse(path.read_text(encoding="utf-8"))))
        if imported not in FACE and imported.split(".")[0] != room and FLOOR[imported.split(".")[0]] >= FLOOR[room]
    ]
    assert not upward, f"diafano.{name} imports from above: {upward}"


def test_an_upward_arrow_is_found() -> None:
    source = (
        "def late():\n    from diafano.training import loop\n    from diafano import request\n    from . import noise\n"
    )
    assert imports_of(PACKAGE / "errors.py", ast.parse(source)) == {"training", "request", "noise"}
    inner = ast.parse("from ..training.loop import Stage\nfrom .reading import read_json\nimport diafano.cli.main")
    assert imports_of(PACKAGE / "checkpoints" / "x.py", inner) == {"training.loop", "checkpoints.reading", "cli.main"}
    assert FLOOR["training"] > FLOOR["noise"]


def test_samplers_import_nothing_of_ours_but_the_error() -> None:
    for path in (PACKAGE / "sampling" / "samplers").glob("*.py"):
        imported = imports_of(path, ast.parse(path.read_text(encoding="utf-8")))
        assert all(name == "errors" or name.startswith("sampling.samplers.") for name in imported)


@pytest.mark.parametrize("name", sorted(modules()))
def test_the_oracles_are_never_imported(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {top.split(".")[0] for top in imported} & {"diffusers", "transformers", "accelerate", "peft"}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import diafano; dir(diafano)", ("torch", "numpy", "PIL", "pydantic", "typer", "rich")),
        ("import diafano.cli.main", ("torch", "numpy", "PIL")),
        ("import diafano; diafano.load", ("torch",)),
    ],
)
def test_import_brings_in_nothing_heavy(statement: str, heavy: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint(*sorted(set({heavy!r}) & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_public_names_are_there() -> None:
    for name in diafano.__all__:
        assert getattr(diafano, name) is not None
        assert name in dir(diafano)
    with pytest.raises(AttributeError, match="absent"):
        _ = diafano.absent
