"""Each cell of an experiment drawn into a folder, unless the folder has that picture already.

A picture is known by what is written in it: all settings, the model's name and a hash of its weights, and a hash of the
pictures that it was drawn over. So a run that was stopped goes on, further values can be added to one that is done, and
files may be renamed.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diafano.errors import UserError, collect_notes, note
from diafano.files import check_folder, numbered, slug, write_text
from diafano.jobs.experiment.axes import Axis, Cell, cells_of
from diafano.jobs.experiment.sheet import sheet
from diafano.jobs.experiment.table import FILE, SECONDS, as_csv, as_markdown, known_seconds
from diafano.pictures.files import read_parameters, read_picture, save_new_picture, save_picture
from diafano.pictures.metadata import FORMATS
from diafano.request.request import Request
from diafano.sampling.control import Control
from diafano.sampling.init_image import InitImage
from diafano.stable_diffusion import OnStep, StableDiffusion

GRID, CSV, MARKDOWN = "grid.png", "table.csv", "table.md"
SEED = 0
"""Where none is given and none varies: by chance, a run that was stopped could not go on."""
SAMPLED = 4096
"""Values of each tensor that the hash of a model's weights sees: training changes nearly all of them."""
LONGEST_PART = 40
"""Letters of a label in a file's name."""


@dataclass(frozen=True)
class Inputs:
    """What is the same in all cells, beside the settings."""

    image: Image.Image | None = None
    mask: Image.Image | None = None
    controls: Sequence[Control] = ()

    def hash(self) -> str | None:
        """Of the pictures; None where there is none. Those of ControlNets are recorded with them."""
        given = [picture for picture in (self.image, self.mask) if picture is not None]
        if not given:
            return None
        digest = hashlib.sha256()
        for picture in given:
            digest.update(repr((picture.mode, picture.size)).encode() + picture.tobytes())
        return digest.hexdigest()[:10]


@dataclass(frozen=True)
class Drawn:
    """A cell whose picture is in the folder."""

    cell: Cell
    request: Request
    path: Path
    seconds: float | None
    """None: it was there already."""


def run_experiment(
    model: StableDiffusion,
    prompt: str | None,
    axes: Sequence[Axis],
    folder: str | os.PathLike[str],
    *,
    inputs: Inputs | None = None,
    tagged: Callable[[str], str] = lambda prompt: prompt,
    on_start: Callable[[int, int], object] | None = None,
    on_step: OnStep | None = None,
    on_drawn: Callable[[Drawn], object] | None = None,
    **settings: Any,
) -> list[Drawn]:
    """Draw every combination of the axes' values into the folder; the others are as in `settings`, for all cells.

    Beside the pictures it gets `grid.png`, `table.csv` and `table.md`, also where the run is stopped. `on_start` is
    told how many pictures and how many steps are left to be drawn, `on_drawn` of each picture, whether drawn or found.
    `tagged` puts the tags of LoRAs into each prompt before it is drawn.

    Raises UserError, one sentence, before anything is drawn where a cell is not possible.
    """
    folder, inputs = Path(folder), Inputs() if inputs is None else inputs
    cells = cells_of(axes)
    if not any("seed" in axis.settings for axis in axes) and settings.get("seed") is None:
        settings["seed"] = SEED
    if settings.get("variation_strength") is not None and settings.get("variation_seed") is None:
        settings["variation_seed"] = SEED

    def prepared(cell: Cell) -> tuple[Request, InitImage | None]:
        said = {**settings, **cell.settings}
        asked = said.pop("prompt", prompt)
        if asked is None:
            raise UserError("there is nothing to draw: give a PROMPT, or a file of prompts")
        request, start = model.prepare(tagged(asked), image=inputs.image, mask=inputs.mask, **said)
        if request.count != 1:
            raise UserError(f"an experiment draws one picture for each combination, not {request.count}: vary the seed")
        return request, start

    requests = [prepared(cell)[0] for cell in cells]
    check_folder(folder)
    folder.mkdir(exist_ok=True)
    suffix = _suffix(model, inputs)
    texts = [_text(model, request, inputs) + suffix for request in requests]
    there = _pictures_in(folder)
    left = [at for at, text in enumerate(texts) if text not in there]
    if on_start is not None:
        on_start(len(left), sum(model.plan(requests[at]).steps for at in left))
    done: list[Drawn] = []
    earlier = known_seconds(folder / CSV)
    try:
        for cell, request, text in zip(cells, requests, texts, strict=True):
            seconds = None
            if text not in there:
                begun = time.perf_counter()
                names = numbered(folder / f"{_name(request, axes, cell)}.png")
                # Made once more: all cells' latents together may be too much.
                start = None if inputs.image is None else prepared(cell)[1]
                path = save_new_picture(model.draw(request, on_step, start, inputs.controls)[0], names, text)
                seconds = time.perf_counter() - begun
                there[text] = path
                earlier[path.name] = f"{seconds:.2f}"
            done.append(Drawn(cell, request, there[text], seconds))
            if on_drawn is not None:
                on_drawn(done[-1])
    except BaseException:
        try:
            _write_overview(folder, axes, done, earlier)
        except (OSError, UserError) as second:  # why the drawing ended matters more
            note(f"the tables and the sheet of the pictures drawn so far are not up to date ({second})")
        raise
    _write_overview(folder, axes, done, earlier)
    return done


def _text(model: StableDiffusion, request: Request, inputs: Inputs) -> str:
    with collect_notes():  # they come when it is drawn
        loras = model.addons.loras_of(request.prompt)
    return model.recorded(request, inputs.controls, loras)(request.batch_position)


def _suffix(model: StableDiffusion, inputs: Inputs) -> str:
    """What the text of an experiment's picture has beyond that of others."""
    pictures = inputs.hash()
    return f", Weights: {weights_hash(model)}" + ("" if pictures is None else f", Input pictures: {pictures}")


def weights_hash(model: StableDiffusion) -> str:
    """Ten hexadecimal digits that differ where the weights of two models do, or their number formats."""
    digest = hashlib.sha256()
    for part in (model.unet, model.text_encoder, model.autoencoder):
        for name, tensor in part.state_dict().items():
            values = tensor.detach().flatten()
            few = values[:: max(1, values.numel() // SAMPLED)].to("cpu", torch.float32)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + few.numpy().tobytes())
    return digest.hexdigest()[:10]


def _pictures_in(folder: Path) -> dict[str, Path]:
    """What is written in the pictures that the folder has, and in which."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in FORMATS and path.name != GRID and not path.name.startswith("."):
            try:
                text = read_parameters(path)
            except UserError:  # whatever it is, it is not one of these pictures
                continue
            if text is not None:
                found.setdefault(text, path)
    return found


def _name(request: Request, axes: Sequence[Axis], cell: Cell) -> str:
    parts = [
        slug(label)[:LONGEST_PART] if axis.name == "prompt" else f"{axis.name}-{slug(label)[:LONGEST_PART]}"
        for axis, label in zip(axes, cell.labels, strict=True)
    ]
    if all(axis.name != "prompt" for axis in axes):
        parts.insert(0, slug(request.prompt)[:LONGEST_PART].strip("-"))
    return "_".join(parts)


def _write_overview(folder: Path, axes: Sequence[Axis], done: Sequence[Drawn], seconds: Mapping[str, str]) -> None:
    if not done:
        return
    _write_tables(folder, axes, done, seconds)
    shown = {drawn.cell.place: read_picture(drawn.path) for drawn in done}
    save_picture(sheet(axes, shown), folder / GRID)


def _write_tables(folder: Path, axes: Sequence[Axis], done: Sequence[Drawn], seconds: Mapping[str, str]) -> None:
    varied = [axis.name for axis in axes]
    rows = []
    for drawn in done:
        request = drawn.request
        said = request.model_dump(exclude_defaults=True, exclude=set(varied))
        settings = {name: "x".join(map(str, value)) if name == "size" else str(value) for name, value in said.items()}
        labels = dict(zip(varied, drawn.cell.labels, strict=True))
        rows.append({FILE: drawn.path.name, **labels, **settings, SECONDS: seconds.get(drawn.path.name, "")})
    columns = list(dict.fromkeys(column for row in rows for column in row if column != SECONDS))
    whole = [{column: row.get(column, "") for column in [*columns, SECONDS]} for row in rows]
    write_text(folder / CSV, as_csv(whole))
    write_text(folder / MARKDOWN, as_markdown(whole, varied))
