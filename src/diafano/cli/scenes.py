"""`diafano scenes`: emoji scenes as a folder of captioned pictures, to look at or to train anything on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from diafano.errors import note

MARKER = "metadata.jsonl"
"""What a folder must hold, or nothing, for its scenes to be replaced."""


def command(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", metavar="FOLDER", show_default=False)],
    count: Annotated[int, typer.Option(help="How many scenes.", metavar="N", min=1)] = 100,
    size: Annotated[int, typer.Option(help="Edge of the square pictures in pixels.", metavar="N", min=16)] = 128,
    seed: Annotated[int, typer.Option(help="Chooses the scenes.", metavar="N", min=0)] = 0,
    held_out: Annotated[bool, typer.Option("--held-out", help="Scenes that training never shows.")] = False,
    font: Annotated[
        Path | None, typer.Option(help="Colour emoji font. Default: Noto Color Emoji as installed.", metavar="FILE")
    ] = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Use the sprites that come with diafano, not a font.")
    ] = False,
) -> None:
    """Write emoji scenes with captions into a folder: pictures and metadata.jsonl, as `train` reads them."""
    from PIL import Image

    from diafano.checkpoints.writing import check_in_place, folder_in_place
    from diafano.training.data.emoji.emoji import EmojiScenes
    from diafano.training.data.emoji.sprites import Sprites

    check_in_place(folder, marker=MARKER)
    sprites = Sprites.shipped() if shipped and font is None else Sprites.from_font(font)
    source = EmojiScenes(sprites, size=size, seed=seed, held_out=held_out)
    digits = len(str(count - 1))
    there = (folder / MARKER).is_file()
    with folder_in_place(folder, marker=MARKER) as staging:
        lines = []
        for index in range(count):
            example = source.example(index)
            name = f"{index:0{digits}d}.png"
            Image.fromarray(example.pixels).save(staging / name)
            lines.append(json.dumps({"file_name": name, "text": example.caption}) + "\n")
        (staging / MARKER).write_text("".join(lines), encoding="utf-8")
    if there:
        note(f"{str(folder)!r} was there already: scenes of the same names have been replaced, other files stay")
    print(folder)
