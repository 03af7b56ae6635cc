"""The recipe that a run was begun with, kept beside its checkpoint: whoever changes one, and goes on, is told."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diafano.files import whole_file
from diafano.training.loop import CHECKPOINT
from diafano.training.recipe import Section

FILE = "recipe.json"

FREE = frozenset(
    {
        *("output", "data.processes"),
        *(f"loop.{name}" for name in ("steps", "workers", "precision", "gradient_checkpointing", "tensorboard")),
        *(f"loop.{name}_every" for name in ("checkpoint", "preview", "log")),
    }
)
"""What may be another each time: how long, how fast, how much is told."""


def changes(folder: Path, recipe: Section) -> list[str]:
    """What the recipe says otherwise than the one that the run in the folder was begun with: "data.size is 64, was 32".

    None for a run that is yet to begin, or that was begun before this was kept.
    """
    if not (folder / CHECKPOINT).is_file() or not (folder / FILE).is_file():
        return []
    try:
        before = dict(_values(json.loads((folder / FILE).read_text(encoding="utf-8"))))
    except (OSError, ValueError):  # it only tells of the run
        return []
    now = dict(_values(_plain(recipe)))
    keys = [key for key in (*before, *(key for key in now if key not in before)) if key not in FREE]
    return [f"{key} is {_said(now, key)}, was {_said(before, key)}" for key in keys if now.get(key) != before.get(key)]


def keep(folder: Path, recipe: Section) -> None:
    """Write the recipe beside the checkpoint, for `changes`."""
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_text(json.dumps(_plain(recipe), indent=2) + "\n", encoding="utf-8")


def _plain(recipe: Section) -> Any:
    return recipe.model_dump(mode="json")


def _values(said: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its key in the recipe, as ``loop.steps``."""
    if isinstance(said, Mapping):
        for name, value in said.items():
            yield from _values(value, f"{key}.{name}" if key else name)
    else:
        yield key, said


def _said(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if values.get(key) is not None else "nothing"
    return text if len(text) <= 60 else text[:57] + "..."
