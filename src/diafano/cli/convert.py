"""`diafano convert`: a model copied to another layout, another number format."""

from pathlib import Path
from typing import Annotated

import typer

from diafano.cli import options as option
from diafano.errors import UserError, note
from diafano.files import check_file


def command(
    source: Annotated[
        str, typer.Argument(help="A model's folder, file or hub id.", metavar="SOURCE", show_default=False)
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="Folder to write, or a name ending in .safetensors for a single file.",
            metavar="TARGET",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        str, typer.Option(help="Number format to write: float32, bfloat16 or float16.", metavar="D")
    ] = "float16",
    shard: Annotated[
        int | None, typer.Option(help="Split weights into files of at most so many MiB.", metavar="MIB", min=1)
    ] = None,
    tokenizer: option.TokenizerFolder = None,
    prediction: option.Prediction = None,
    ema: option.Ema = False,
    revision: option.Revision = None,
) -> None:
    """Copy a model from a folder (diffusers' layout), a single file (the original's names) or the hub to either form.

    The target appears as a whole or not at all; files beside the model's own stay.
    """
    import diafano as package
    from diafano.checkpoints.diffusers import INDEX, save_folder
    from diafano.checkpoints.single_file import SUFFIX, save_file
    from diafano.checkpoints.writing import MAX_SHARD_BYTES, check_in_place

    if target.suffix.lower() == SUFFIX:
        check_file(target)
    else:
        check_in_place(target, marker=INDEX)
    there = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    model = package.load(
        source,
        device="cpu",
        dtype="float32",
        tokenizer=tokenizer,
        prediction=prediction,
        ema=ema,
        revision=revision,
    )
    if target.suffix.lower() != SUFFIX:
        save_folder(model, target, dtype, MAX_SHARD_BYTES if shard is None else shard * 2**20)
    elif shard is not None:
        raise UserError(f"a single file is not split, but --shard {shard} was given: leave it out")
    else:
        save_file(model, target, dtype)
    if there:
        note(f"{str(target)!r} was there already and has been replaced")
    typer.echo(target)
