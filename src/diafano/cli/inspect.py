"""`diafano inspect`: a model's parts, their sizes and the shapes on a picture's way through them; what is in a file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diafano.cli import options as option
from diafano.errors import UserError, checked

if TYPE_CHECKING:
    from diafano.checkpoints.recognise import Original
    from diafano.families.family import Preset

NAMES_SHOWN = 8
"""How many tensors a list of the report names before it only counts the rest."""


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="sd1, sd2, embedded, or a model's folder, file or hub id.", metavar="MODEL", show_default=False
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="Width and height of the picture. Default: the model's own.", metavar="WxH")
    ] = None,
    prediction: option.Prediction = None,
    ema: option.Ema = False,
    revision: option.Revision = None,
) -> None:
    """Print a model's parts, how many parameters each has, and the shapes on a picture's way through them.

    Nothing is computed and no weights are allocated, so this works for models larger than the memory. Of a single file
    it also says what it is and on what evidence, which tensors are used, spare or missing, and what is suspicious.
    """
    inspect(model, size=size, prediction=prediction, ema=ema, revision=revision)


def inspect(
    name: str, *, size: str | None, prediction: str | None = None, ema: bool = False, revision: str | None = None
) -> None:
    """Print the model's table; of a single file, before it, what is in it.

    `name` is a preset, the folder of a model, a file or a hub id; `size` is "WxH" or the model's own. `prediction` and
    `ema` are for files, as in `recognise`, and `revision` is for hub ids.
    """
    if Path(name).is_file() and revision is None:
        from diafano.checkpoints.recognise import recognise

        original = recognise(Path(name), prediction=prediction, ema=ema)
        _print_file(original)
        preset = _file_preset(original)
        if preset is not None:
            print()
            _print_way(preset, size)
        return
    if prediction is not None or ema:
        raise UserError(f"{name!r} is no file: --prediction and --ema are for single files, leave them out")
    _print_way(find_model(name, revision), size)


def _print_way(preset: "Preset", size: str | None) -> None:
    from diafano.families.presets import parameter_counts, shapes
    from diafano.families.table import FAMILIES
    from diafano.request.card import ModelCard

    width, height = preset.size if size is None else checked(ModelCard, {"name": preset.name, "size": size}).size

    rows = [("Part", "takes", "gives", "parameters")]
    for row in shapes(preset, width, height):
        rows.append((row.part, row.takes, row.gives, "" if row.parameters is None else f"{row.parameters:,}"))
    counts = parameter_counts(preset)
    rows.append(("All parts", "", "", f"{sum(counts.values()):,}"))

    print(f"{preset.name}: a picture of {width}x{height} on its way through the model, batch dimension left out\n")
    _print_table(rows)
    print(f"\nParameters: {', '.join(f'{part} {count:,}' for part, count in counts.items())}")
    print(FAMILIES[preset.family].trained(preset.schedule))


def find_model(name: str, revision: str | None = None) -> "Preset":
    """The configuration that `name` means: a preset's, the shipped model's, that of a folder or of a hub id."""
    from diafano.checkpoints.diffusers import read_folder
    from diafano.checkpoints.hub import fetch, find_hub_id
    from diafano.checkpoints.loading import EMBEDDED, is_embedded
    from diafano.families.presets import PRESETS, find_preset

    if is_embedded(name) and revision is None and (EMBEDDED / "model_index.json").is_file():
        return read_folder(EMBEDDED, weights=False).preset  # what really ships, not what the preset says should
    if name in PRESETS and revision is None:
        return find_preset(name)
    hub_id = find_hub_id(name, revision)
    if hub_id is not None:
        return replace(read_folder(fetch(hub_id, weights=False), weights=False).preset, name=hub_id.name)
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"there is no model {name!r}: give one of {', '.join(PRESETS)}, a model's folder or file, or a hub id"
        )
    return read_folder(folder, weights=False).preset


def _print_file(original: "Original") -> None:
    """Family, prediction and its evidence, parts, and every tensor that is spare, missing or suspicious."""
    from diafano.checkpoints.recognise import suspicions

    print(f"{original.path}: {original.label}, {original.kind}")
    print(f"Predicts {original.prediction}: {original.evidence}{'' if original.certain else ' (a guess)'}\n")
    rows = [("Part", "tensors", "format", "parameters")]
    for name in original.form.parts:
        part = original.parts.get(name)
        if part is None:
            rows.append((name, "", "", "not in the file"))
            continue
        used = original.used(name)
        formats = sorted({str(original.tensors[key].dtype).removeprefix("torch.") for key in used})
        parameters = sum(tensor.numel() for tensor in part.network.parameters())
        rows.append((name, str(len(used)), ", ".join(formats), f"{parameters:,}"))
    _print_table(rows)
    used_names = set().union(*(original.used(name) for name in original.parts))
    print(f"\nUsed: {len(used_names)} of {len(original.tensors)} tensors")
    for reason, spare in original.spare.items():
        print(f"Not used, {reason}: {_shortened(spare)}")
    for what, found in (
        ("Missing", original.missing),
        ("Of a wrong shape", original.misshapen),
        ("Without a place in this model", original.unexpected),
        ("Unknown", original.unknown),
        ("Suspicious", tuple(suspicions(original))),
    ):
        print(f"{what}: {_shortened(found) if found else 'none'}")


def _file_preset(original: "Original") -> "Preset | None":
    """The configuration of a file that a model can be made of; None for any other."""
    from diafano.checkpoints.single_file import check_complete, preset_of_file

    try:
        check_complete(original)
    except UserError as error:
        print(f"\nCannot be loaded: {error}")
        return None
    return preset_of_file(original)


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """The last column flush right, the others flush left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        print("  ".join([*cells, row[-1].rjust(widths[-1])]).rstrip())
