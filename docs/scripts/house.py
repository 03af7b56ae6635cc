"""Draws docs/house.md: the rooms of the package from the top down, and what each module says that it is.

    .venv/bin/python docs/scripts/house.py

`tests/test_imports.py` holds the same table of rooms against what the modules import, and the page against the modules.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "diafano"
PAGE = ROOT / "docs" / "house.md"

# The rooms from the top down. A room imports from rooms below it only; rooms of one row do not know each other.
ROOMS = [
    {"__main__"},
    {"cli"},
    {"evaluation", "serve"},
    {"jobs", "training"},
    {"checkpoints", "explain"},
    {"stable_diffusion"},
    {"request"},
    {"sampling", "families"},
    {"engine", "text_encoder"},
    {"networks", "noise", "pictures"},
    {"files"},
    {"errors"},
]

# `diafano` itself stands outside: its public names are found when they are used. Every module may ask for its version.
OUTSIDE = "__init__"

HEAD = """# The house

The rooms of `src/diafano/`, from the top down: a room imports from rooms below it only, and rooms of one floor do not
know each other. Tests hold that. This page is written by `docs/scripts/house.py` (`make docs`): it is what each module
says of itself in its first line.
"""


def modules() -> dict[str, Path]:
    """Dotted name below `diafano` -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts if len(parts) == 1 else [part for part in parts if part != "__init__"])] = path
    return found


def purpose(path: Path) -> str:
    """The first paragraph of what a module says of itself, as one line."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split())


def page() -> str:
    lines = [HEAD]
    for row in ROOMS:
        lines.append(f"## {', '.join(sorted(row))}\n")
        for room in sorted(row):
            for name, path in modules().items():
                if name.split(".")[0] == room:
                    depth = name.count(".")
                    lines.append(f"{'  ' * depth}- `{_shown(path)}` {purpose(path)}")
        lines.append("")
    return "\n".join(lines)


def _shown(path: Path) -> str:
    return f"{path.parent.name}/" if path.name == "__init__.py" else path.name


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
