"""What a shell offers for the value of an option, when the tab key is pressed: names out of tables, models and add-ons
on disk. For any other value the shell offers files, as it does by itself."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from diafano.cli.names import NAMES

WEIGHT_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
MODEL_FOLDER = "model_index.json"
"""What a folder of a whole model has in it."""
LEVELS = 4
"""How many folders deep it is looked for models."""
MOST_OFFERED = 200
MOST_LOOKED_AT = 5000
"""Entries of folders: whoever presses tab in a folder of a million pictures does not wait for them."""

LISTED = {
    **NAMES,
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "prediction": ("noise", "v"),
    "fast": ("0", "1", "2", "3"),
}
"""By the parameter's name."""

MODELS = frozenset({"model", "source", "start", "vae"})
FILES = frozenset({"lora", "embedding", "networks", "decoder"})
"""Parameters that take files of weights; `MODELS` take folders of whole models too."""


def completion(name: str) -> Callable[[str], list[str]] | None:
    """What is offered for the parameter of a command, given what is typed of it; None: whatever the shell offers."""

    def listed(incomplete: str) -> list[str]:
        return [one for one in LISTED[name] if one.startswith(incomplete.lower())]

    def model(incomplete: str) -> list[str]:
        return weights(incomplete, folders=True)

    def file(incomplete: str) -> list[str]:
        return weights(incomplete, folders=False)

    if name in LISTED:
        return listed
    if name == "vary":
        return settings
    return model if name in MODELS else file if name in FILES else None


def settings(incomplete: str) -> list[str]:
    """The settings that can vary, each with the equals sign that values follow."""
    from diafano.request.settings import SETTINGS

    names = (f"{name.replace('_', '-')}=" for name, row in SETTINGS.items() if row.setting.option)
    return [name for name in names if name.startswith(incomplete)]


def weights(begun: str, *, folders: bool) -> list[str]:
    """Files of weights whose path begins like that, in the folders below too; and `folders` of whole models, as one.

    Written as it was begun: relative, absolute or from ``~``.
    """
    written, _, name = begun.rpartition("/")
    prefix = f"{written}/" if "/" in begun else ""
    start = Path(os.path.expanduser(prefix) or ".")
    found = (path for path in _below(start, folders) if path.startswith(name))
    return sorted(prefix + path for path in islice(found, MOST_OFFERED))


def _below(start: Path, folders: bool) -> Iterator[str]:
    """What `weights` looks for, relative to where it starts; near ones first."""
    looked_at = 0
    waiting = [""]
    while waiting:
        folder = waiting.pop(0)
        try:
            entries = list(islice(os.scandir(start / folder), MOST_LOOKED_AT - looked_at))
        except OSError:
            continue
        looked_at += len(entries)
        for entry in sorted(entries, key=lambda one: one.name):
            path = f"{folder}{entry.name}"
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                if entry.name.lower().endswith(WEIGHT_ENDINGS):
                    yield path
            elif folders and (start / path / MODEL_FOLDER).is_file():
                yield path
            elif path.count("/") < LEVELS:
                waiting.append(f"{path}/")
