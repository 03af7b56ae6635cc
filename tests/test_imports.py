"""The house's arrows: a module imports only from its own floor or from below, and importing does next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diafano

PACKAGE = Path(diafano.__file__).parent

# From the top down. A name stands for a module or for a whole folder; modules of one floor may know each other.
LAYERS = [
    {"__main__"},
    {
        "cli",
        "cli_options",
        "cli_addons",
        "cli_generate",
        "cli_messages",
        "cli_experiment",
        "cli_noise",
        "cli_inspect",
        "cli_train",
        "cli_scenes",
        "cli_samplers",
        "cli_tokens",
    },
    {"serve", "explain"},
    {"training", "evaluation", "experiments"},
    {"data", "checkpoints"},
    {"presets"},
    {"stable_diffusion", "filmstrip", "preview"},
    {"second_pass", "deep_cache"},
    {"conditioning", "from_picture", "addons", "controlnet", "prompt_reading", "request_noise", "matching_parts"},
    {"request", "recorded"},
    {"request_parts", "request_guidance"},
    {"profiles", "profile_grids"},
    {"prompt_embedding", "tiles", "bands"},
    {"autoencoder", "text_encoder", "unet", "denoiser", "samplers", "lora", "guidance", "engine", "compiled"}
    | {"tiny_autoencoder"},
    {"packed"},
    {"layers", "schedules", "noise", "philox", "brownian", "variations", "picture", "devices", "infotext"}
    | {"tileable", "precision"},
    {"masks", "outpainting", "upscaling"},
    {"errors", "memory", "threads", "whole_file", "fast", "prompt_syntax", "lora_tags", "comfyui_syntax", "file_names"},
]
FLOOR = {name: len(LAYERS) - index for index, layer in enumerate(LAYERS) for name in layer}

# `diafano` itself stands outside: `load` and the public names are found when they are used, and every module may ask
# for its version and its folder.
OUTSIDE = "__init__"


def modules() -> dict[str, Path]:
    """Dotted name below `diafano` -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts if len(parts) == 1 else [part for part in parts if part != "__init__"])] = path
    return found


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


def is_public_name(name: str) -> bool:
    return "." not in name and name not in FLOOR and name in dir(diafano)


def test_every_module_has_a_floor() -> None:
    homeless = {name.split(".")[0] for name in modules()} - FLOOR.keys() - {OUTSIDE}
    assert not homeless, f"put {sorted(homeless)} into LAYERS"


@pytest.mark.parametrize("name", sorted(modules().keys() - {OUTSIDE}))
def test_imports_point_downward(name: str) -> None:
    path = modules()[name]
    upward = [
        imported
        for imported in sorted(imports_of(path, ast.parse(path.read_text(encoding="utf-8"))))
        if not is_public_name(imported) and FLOOR[imported.split(".")[0]] > FLOOR[name.split(".")[0]]
    ]
    assert not upward, f"diafano.{name} imports from above: {upward}"


def test_an_upward_arrow_is_found() -> None:
    source = (
        "def late():\n    from diafano.training import loop\n    from diafano import presets\n    from . import noise\n"
    )
    assert imports_of(PACKAGE / "noise.py", ast.parse(source)) == {"training", "presets", "noise"}
    inner = ast.parse("from ..training.loop import Stage\nfrom .reading import read_json\nimport diafano.cli")
    assert imports_of(PACKAGE / "checkpoints" / "x.py", inner) == {"training.loop", "checkpoints.reading", "cli"}
    assert FLOOR["training"] > FLOOR["noise"]


def test_samplers_import_nothing_of_ours_but_the_error() -> None:
    for path in (PACKAGE / "samplers").glob("*.py"):
        imported = imports_of(path, ast.parse(path.read_text(encoding="utf-8")))
        assert {name.split(".")[0] for name in imported} <= {"errors", "samplers"}


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
        ("import diafano.cli", ("torch", "numpy", "PIL")),
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
