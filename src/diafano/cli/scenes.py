"""`diafano scenes`: emoji scenes as a folder of captioned pictures, to look at or to train anything on."""

import json
from pathlib import Path


def scenes(folder: Path, *, count: int, size: int, seed: int, held_out: bool, font: Path | None, shipped: bool) -> None:
    """Write `count` pictures and `metadata.jsonl` (file_name, text), as Hugging Face's imagefolder has them."""
    from PIL import Image

    from diafano.checkpoints.writing import folder_in_place
    from diafano.training.data.emoji.emoji import EmojiScenes
    from diafano.training.data.emoji.sprites import Sprites

    sprites = Sprites.shipped() if shipped and font is None else Sprites.from_font(font)
    source = EmojiScenes(sprites, size=size, seed=seed, held_out=held_out)
    digits = len(str(count - 1))
    with folder_in_place(folder, marker="metadata.jsonl") as staging:
        lines = []
        for index in range(count):
            example = source.example(index)
            name = f"{index:0{digits}d}.png"
            Image.fromarray(example.pixels).save(staging / name)
            lines.append(json.dumps({"file_name": name, "text": example.caption}) + "\n")
        (staging / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    print(folder)
