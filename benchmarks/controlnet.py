"""How often things stand where the picture for the ControlNet shows them: docs/addons.md's, on the embedded model.

    .venv/bin/python benchmarks/controlnet.py [--scenes 50] [--sheet FILE] [--write]

Held-out scenes, half of them with things where the model alone never puts any. A picture passes if the judge of
`diafano evaluate` sees each thing within `NEAR` of where the scene has it. `--write` puts the table into
docs/addons.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import diafano
from diafano.evaluation.judge import Judge, Sighting
from diafano.pictures.files import save_picture
from diafano.pictures.pixels import grid
from diafano.training.data.emoji.arrangements import Arrangement
from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.scenes import RenderedScene
from diafano.training.data.emoji.sprites import Sprites

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS / "scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)
from train_controlnet import TRAINED, silhouettes  # noqa: E402

SIZE, SNAP, SEED = 64, 4, 12
NEAR = 0.1
"""Share of the picture's edge between the two centres, along each axis."""
STRENGTHS = (0.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--sheet", type=Path, help="also write all pictures: silhouettes, then a row a strength")
    parser.add_argument("--write", action="store_true", help="put the table into docs/addons.md")
    given = parser.parse_args()
    model, judge, sprites = diafano.load(), Judge.shipped(), Sprites.shipped()
    network = diafano.load_controlnet(TRAINED, model)
    asked: dict[Arrangement, list[tuple[RenderedScene, str]]] = {}
    for arrangement in ("even", "free"):
        scenes = EmojiScenes(sprites, model.card.objects, SIZE, SEED, held_out=True, snap=SNAP, arrangement=arrangement)
        asked[arrangement] = [scenes.described(index) for index in range(given.scenes // 2)]
    everything = [*asked["even"], *asked["free"]]
    hints = [Image.fromarray(silhouettes(scene, sprites)).convert("RGB") for scene, _ in everything]
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    for strength in STRENGTHS:
        drawn = [
            model.generate(
                text,
                seed=index,
                fast=1,
                controls=[diafano.Control(network, hint, strength=strength)] if strength else [],
            )[0]
            for index, ((_, text), hint) in enumerate(zip(everything, hints, strict=True))
        ]
        rows.append((f"strength {strength:g}" if strength else "none", drawn))
    true = [Image.fromarray(scene.pixels) for scene, _ in everything]
    lines = ["| ControlNet | usual places | other places |", "| --- | --- | --- |"]
    for name, pictures in (*rows, ("the judge, on true pictures", true)):
        there = [in_place(scene, seen) for (scene, _), seen in zip(everything, judge.look(pictures), strict=True)]
        half = len(asked["even"])
        cells = " | ".join(f"{sum(part)} of {len(part)}" for part in (there[:half], there[half:]))
        lines.append(f"| {name} | {cells} |")
    print("\n".join(lines))
    if given.sheet is not None:
        sheets = [hints, *(pictures for _, pictures in rows)]
        save_picture(grid([picture for row in sheets for picture in row], len(everything)), given.sheet)
    if given.write:
        write_between_markers(DOCS / "addons.md", "controlnet", "\n".join(lines))


def in_place(scene: RenderedScene, seen: Sighting) -> bool:
    """Whether each thing is seen where it belongs, none of them counted twice."""
    left = list(seen.detections)
    for one in scene.placements:
        x, y = ((first + last) / 2 / SIZE for first, last in (one.box[::2], one.box[1::2]))
        near = [that for that in left if that.name == one.name and max(abs(that.x - x), abs(that.y - y)) <= NEAR]
        if not near:
            return False
        left.remove(near[0])
    return True


if __name__ == "__main__":
    main()
