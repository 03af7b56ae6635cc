"""`diafano recipes`: recipes to train a model on one's own pictures, ready for `diafano train`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from diafano.errors import UserError

SIZE = 128


def command(
    folder: Annotated[
        Path, typer.Argument(help="Folder to write the recipes into.", metavar="FOLDER", show_default=False)
    ],
    pictures: Annotated[
        Path,
        typer.Option(
            help="Folder of pictures, each with a .txt caption beside it, or with a metadata.jsonl or .csv.",
            metavar="FOLDER",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder that the training writes to. Default: runs/NAME, of that name.", metavar="FOLDER"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Edge of the square pictures in pixels. Default: 128, or the model's own.", metavar="N"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the model is called. Default: the recipes' folder's name.", metavar="NAME")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="A model that learns on, in diffusers' layout, or embedded. Default: one from nothing.", metavar="M"
        ),
    ] = None,
) -> None:
    """Write recipes that train a model on your own captioned pictures, and print the commands to carry out.

    From nothing these are an autoencoder, a text encoder and a UNet; with --start it is a UNet that learns on, which
    takes minutes with a dozen pictures. Read and change them as you like.
    """
    from diafano.training.own_recipes import write_recipes, write_tuning_recipe

    called = folder.resolve().name if name is None else name
    where = Path("runs") / called if output is None else output
    if start is None:
        written = write_recipes(folder, pictures, output=where, size=SIZE if size is None else size, name=called)
    elif name is not None:
        raise UserError("--name is for a model from nothing: one that learns on keeps its own, leave it out")
    else:
        written = write_tuning_recipe(folder, pictures, output=where, start=start, size=size)
    for path in written:
        print(path)
    commands = [f"diafano train {path.stem} --config {shlex.quote(str(path))}" for path in written]
    model = shlex.quote((where / "unet" / "model").as_posix())
    commands.append(f'diafano generate "a caption like yours" --model {model}')
    print("now:", *commands, sep="\n  ", file=sys.stderr)
