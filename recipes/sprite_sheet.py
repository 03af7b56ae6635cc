"""Make the sprite sheet that ships with the package from the vectors of Noto Emoji.

    npm pack @iconify-json/noto && tar xf iconify-json-noto-*.tgz
    pip install resvg-py
    python recipes/sprite_sheet.py package
    python recipes/sprite_sheet.py package --edge 384 --everyday --output runs/sheet-384     # to train an upscaler on

The sheet that ships was made with @iconify-json/noto 1.2.9 and resvg-py 0.5.0. The package's info.json states the
artwork's author (Google Inc) and licence (Apache 2.0).
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from diafano.training.data.emoji.objects import EVERYDAY, OBJECTS
from diafano.training.data.emoji.sprites import SPRITE_EDGE, Sprites, squared

SHEET = Path(__file__).parents[1] / "src/diafano/training/data/emoji/noto"
OVERSAMPLING = 4
"""Drawn so many times larger, then cropped to what is visible and brought to size: edges fall on no pixel grid."""


def read_vectors(package: Path) -> dict[str, str]:
    """Character -> its picture as an SVG document."""
    icons: dict[str, Any] = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    names: dict[str, str] = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    width, height = icons["width"], icons["height"]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return {
        chr(int(code, 16)): f"{head}{icons['icons'][name]['body']}</svg>"
        for code, name in names.items()
        if "-" not in code and name in icons["icons"]
    }


def drawn(vector: str, sprite_edge: int = SPRITE_EDGE) -> Image.Image:
    """One sprite: its longer side fills the square."""
    import resvg_py

    edge = OVERSAMPLING * sprite_edge
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=vector, width=edge, height=edge))))
    return squared(picture.convert("RGBA"), sprite_edge)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the folder that the npm package was unpacked into")
    parser.add_argument("--output", type=Path, default=SHEET, help="the sheet's folder")
    parser.add_argument("--edge", type=int, default=SPRITE_EDGE, help="of a sprite, in pixels")
    parser.add_argument("--everyday", action="store_true", help="only the objects that people name first")
    given = parser.parse_args()
    vectors = read_vectors(given.package)
    names = EVERYDAY if given.everyday else tuple(OBJECTS)
    Sprites({name: drawn(vectors[OBJECTS[name].character], given.edge) for name in names}).save_sheet(given.output)


if __name__ == "__main__":
    main()
