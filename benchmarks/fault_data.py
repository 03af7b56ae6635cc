"""What `faults.py` has wrong in training data, checkpoints and what else lies in a run's folder."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fault_commands import NAMED, Command


def data_faults() -> Iterator[tuple[Command, str, Callable[[Path], str], tuple[int, ...]]]:
    """Command, what is wrong, the function that makes it so in a cell's place and returns what must be named."""
    on_pictures = Command("train on a folder", "train|autoencoder|--config|recipe.toml", "", makes_parents=True)
    text_on_pictures = Command("train text on a folder", "train|text|--config|recipe.toml", "", makes_parents=True)

    def fresh(spoil: Callable[[Path], str]) -> Callable[[Path], str]:
        def spoiled(place: Path) -> str:
            shutil.rmtree(place / "out/result")
            return spoil(place / "pictures")

        return spoiled

    def row(**fields: object) -> Callable[[Path], str]:
        def spoil(pictures: Path) -> str:
            rows = [{"file_name": "0.png", "text": "good"}, {"file_name": "1.png", "text": "good", **fields}]
            (pictures / "metadata.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
            return "metadata.jsonl, line 2"

        return spoil

    def table(content: bytes) -> Callable[[Path], str]:
        def spoil(pictures: Path) -> str:
            (pictures / "metadata.jsonl").write_bytes(content)
            return "metadata.jsonl" if content else "pictures"

        return spoil

    def caption(content: bytes) -> Callable[[Path], str]:
        def spoil(pictures: Path) -> str:
            (pictures / "1.txt").write_bytes(content)
            return "1.txt"

        return spoil

    def picture(make: Callable[[Path], object]) -> Callable[[Path], str]:
        def spoil(pictures: Path) -> str:
            (pictures / "1.png").unlink()
            make(pictures / "1.png")
            return "1.png"

        return spoil

    def unreadable(name: str) -> Callable[[Path], str]:
        def spoil(pictures: Path) -> str:
            (pictures / name).chmod(0)
            return name or "pictures"

        return spoil

    wrong: dict[str, Callable[[Path], str]] = {
        "NUL in a caption": caption(b"a \0 fox"),
        "a caption that is no UTF-8": caption(b"a \xff fox"),
        "an empty caption": caption(b""),
        "half a letter in a table's caption": row(text="a \ud800 fox"),
        "NUL in a table's caption": row(text="a \0 fox"),
        "half a letter in a table's name": row(file_name="\ud800.png"),
        "NUL in a table's name": row(file_name="\0.png"),
        "a name too long in a table": row(file_name="x" * 300 + ".png"),
        "a folder in a table": row(file_name="."),
        "an empty table": table(b""),
        "a table of garbage": table(bytes(range(256)) * 4),
        "a table nested without end": table(b"[" * 100_000),
        "an empty picture": picture(lambda path: path.touch()),
        "a picture of garbage": picture(lambda path: path.write_bytes(bytes(range(256)))),
        "a picture that may not be read": unreadable("1.png"),
        "a caption that may not be read": unreadable("1.txt"),
        "a folder that may not be read": unreadable(""),
    }
    for fault, spoil in wrong.items():
        command = text_on_pictures if "caption" in fault else on_pictures
        yield command, fault, fresh(spoil), (2,)

    def strange_name(pictures: Path) -> str:
        for ending in ("png", "txt"):
            os.rename(pictures / f"1.{ending}", os.fsencode(pictures) + b"/\xff." + ending.encode())
        return ""

    yield on_pictures, "a name in bytes that are no letters", fresh(strange_name), (0,)

    def checkpoint(change: Callable[[Path], object]) -> Callable[[Path], str]:
        def spoil(place: Path) -> str:
            change(place / "out/result/checkpoint.pt")
            return "checkpoint.pt"

        return spoil

    def halved(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def linked(path: Path) -> None:
        path.unlink()
        path.symlink_to("absent")

    changes: dict[str, Callable[[Path], object]] = {
        "an empty checkpoint": lambda path: path.write_bytes(b""),
        "a checkpoint of garbage": lambda path: path.write_bytes(bytes(range(256)) * 20),
        "half a checkpoint": halved,
        "a folder in the checkpoint's place": folder,
        "a checkpoint that may not be read": lambda path: path.chmod(0),
        "a checkpoint that is a list": lambda path: torch.save([1], path),
        "a checkpoint of other networks": lambda path: torch.save(
            {"step": 1, "trained": {}, "optimisers": {}, "average": {}}, path
        ),
        "a checkpoint without a step": lambda path: torch.save({**torch.load(path), "step": "many"}, path),
        "a checkpoint that links to nowhere": linked,
    }
    for fault, change in changes.items():
        yield NAMED["train autoencoder"], fault, checkpoint(change), (0, 2) if "links" in fault else (2,)

    def latents(content: bytes) -> Callable[[Path], str]:
        def spoil(place: Path) -> str:
            (place / "out/result/checkpoint.pt").unlink()
            for path in place.glob("out/result/**/*-*.safetensors"):
                path.write_bytes(content)
            return "result"

        return spoil

    yield NAMED["train unet"], "kept latents that are empty", latents(b""), (0, 2)
    yield NAMED["train unet"], "kept latents of garbage", latents(bytes(range(256)) * 8), (0, 2)

    def half_a_line(place: Path) -> str:
        with (place / "out/result/log.jsonl").open("a") as log:
            log.write('{"step": 3, "ki')
        recipe = place / "recipe.toml"
        recipe.write_text(recipe.read_text().replace("steps = 6", "steps = 8"))
        return ""

    yield NAMED["train autoencoder"], "a log that ends within a line", half_a_line, (0,)
