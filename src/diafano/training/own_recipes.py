"""Recipes for one's own captioned pictures: to train a model from nothing, or to let one that is there learn on.

They are files to read and to change: `recipes/` beside this has them with their reasons, and what depends on the
pictures or on the model to begin with is filled in.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from diafano.checkpoints.diffusers import read_folder
from diafano.checkpoints.loading import EMBEDDED, is_embedded
from diafano.errors import UserError
from diafano.files import check_folder, refusal, whole_file
from diafano.request.fields import LARGEST_EDGE
from diafano.training.data.folder import PictureFolder
from diafano.training.recipe import STAGES, fitting_size, read_recipe

TEMPLATES = Path(__file__).parent / "recipes"
STEP = 32
"""What the size of a model from nothing is a multiple of: its latent's factor times what its UNet halves."""
SMALLEST = CROP = 64
MOST_AT_ONCE = 64


def write_recipes(folder: Path, pictures: Path, *, output: Path, size: int, name: str) -> list[Path]:
    """Write the recipes of the three stages into `folder`, and return the files in the order of the stages.

    They train a model called `name` from nothing on the captioned `pictures` of a folder, each cropped to
    (size, size) pixels, and write into `output`. Raises UserError for pictures without captions, a size that is no
    multiple of 32 from 64 on, and for recipes that are there already.
    """
    if size % STEP or not SMALLEST <= size <= LARGEST_EDGE:
        raise UserError(
            f"size {size} is not possible: give a multiple of {STEP} from {SMALLEST} to {LARGEST_EDGE} pixels"
        )
    count = len(PictureFolder(pictures, size))
    filled = {
        "output": output.as_posix(),
        "pictures": _value(pictures.as_posix()),
        "size": size,
        "crop": min(CROP, size),
        "text_batch": min(MOST_AT_ONCE, count),
        "name": _value(name),
    }
    return _write(folder, {stage: stage for stage in ("autoencoder", "text", "unet")}, filled)


def write_tuning_recipe(folder: Path, pictures: Path, *, output: Path, start: str, size: int | None) -> list[Path]:
    """Write the recipe by which the UNet of the model in the folder `start` learns on, and return its file.

    `start` is a folder in diffusers' layout, or "embedded"; `size` the model's own if None. Raises UserError as
    `write_recipes` does, and for a model of a kind that is not trained here.
    """
    model = read_folder(EMBEDDED if is_embedded(start) else Path(start), weights=False)
    size = model.card.size[0] if size is None else size
    preset = model.preset
    step = preset.autoencoder.factor * 2 ** (len(preset.unet.widths) - 1)
    if size % step:
        raise UserError(fitting_size(size, step))
    count = len(PictureFolder(pictures, size))
    card = model.card.model_copy(update={"name": f"{model.card.name}-tuned"})
    filled = {
        "output": output.as_posix(),
        "start": _value(start),
        "pictures": _value(pictures.as_posix()),
        "size": size,
        "batch": min(16, count),
        "card": _section("card", card),
        "network": _section("network", preset.unet),
        "schedule": _section("schedule", preset.schedule),
    }
    return _write(folder, {"unet": "tuned"}, filled)


def _write(folder: Path, templates: Mapping[str, str], filled: Mapping[str, object]) -> list[Path]:
    """A recipe for each stage, of the template of that name; each is read again as `diafano train` reads it."""
    check_folder(folder, parents=True)
    paths = [folder / f"{stage}.toml" for stage in templates]
    if there := [str(path) for path in paths if path.exists()]:
        raise UserError(f"there is a recipe already, {there[0]!r}: give another folder, or remove it")
    texts = {
        stage: Template((TEMPLATES / f"{template}.toml").read_text(encoding="utf-8")).substitute(filled)
        for stage, template in templates.items()
    }
    with TemporaryDirectory() as name:  # all are right, or none is written
        for stage, text in texts.items():
            unfinished = Path(name) / f"{stage}.toml"
            unfinished.write_text(text, encoding="utf-8")
            read_recipe(unfinished, STAGES[stage])
    for path, text in zip(paths, texts.values(), strict=True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(refusal(error, path)) from error
    return paths


def _section(name: str, fields: BaseModel) -> str:
    """A section of TOML with what is not as it is when nobody says it."""
    said = fields.model_dump(mode="json", exclude_defaults=True)
    return "\n".join([f"[{name}]", *(f"{key} = {_value(value)}" for key, value in said.items())])


def _value(value: Any) -> str:
    """A text, number, switch or list as TOML has it: as JSON does, but for what JSON escapes by surrogates."""
    return re.sub(r"\x7f", r"\\u007f", json.dumps(value, ensure_ascii=False))
