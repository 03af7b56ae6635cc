"""What one stage of a training hands on to the next: folders of parts, in diffusers' layout."""

from pathlib import Path

from diafano.checkpoints.loading import EMBEDDED, is_embedded
from diafano.errors import UserError


def part_folder(folder: Path, name: str) -> Path:
    """The folder of one part (``vae``, ``unet``), whether the part itself, what holds it, or "embedded" was named."""
    folder = EMBEDDED if is_embedded(str(folder)) else folder
    return folder / name if (folder / name).is_dir() else folder


def finished(folder: Path, key: str, stage: str, part: str) -> Path:
    """The folder that a recipe's `key` names, once the `stage` that writes its `part` is through; else UserError."""
    found = EMBEDDED if is_embedded(str(folder)) else folder
    if not part_folder(found, part).is_dir():
        raise UserError(
            f"the recipe's {key} is {str(folder)!r}, which is not there: first carry out `diafano train {stage}` with"
            " the recipe that writes it, or name another folder"
        )
    if not (part_folder(found, part) / "config.json").is_file():
        raise UserError(
            f"the recipe's {key} is {str(folder)!r}, where `diafano train {stage}` is not through: carry it out to its"
            " last step, or name another folder"
        )
    return found
