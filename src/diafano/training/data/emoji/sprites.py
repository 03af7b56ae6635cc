"""Sprites: each object's picture with a transparent surround, from an emoji font or from the shipped sheet."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from diafano.errors import UserError
from diafano.files import read_text, reason
from diafano.training.data.emoji.colours import TINTS
from diafano.training.data.emoji.objects import OBJECTS, EmojiObject

__all__ = ["OBJECTS", "SPRITE_EDGE", "EmojiObject", "Sprites", "tinted"]

SPRITE_EDGE = 128
"""Width and height in pixels at which sprites are kept."""
_STRIKE = 109
"""The one pixel size at which Noto Color Emoji's bitmaps can be drawn (they are 136 x 128 pixels)."""
_SHEET = "sheet.webp"
_INDEX = "sheet.json"
_COLUMNS = 20
_SHADOW, _SHINE = 0.62, 0.45
"""How far a tint darkens towards black and lightens towards white. More, and red's light reads as pink, orange's
shadow as brown; less, and eyes and stripes vanish."""
_LEAST_REACH = 40.0
"""Levels of luminance that shading covers at least, on either side of a sprite's median."""

Pixels = NDArray[np.uint8]


class Sprites(Mapping[str, Image.Image]):
    """Object name -> its square RGBA picture, ``SPRITE_EDGE`` pixels a side, its longer side filling the square.

    Resized copies are cached: drawing a scene does no resampling once its sizes have been seen. Tinted ones are not,
    as they would take some 400 MB at 128 pixels.
    """

    def __init__(self, pictures: Mapping[str, Image.Image]) -> None:
        if not pictures:
            raise UserError("There are no sprites: give at least one object.")
        self._pictures = dict(pictures)
        self._sized: dict[tuple[str, int], Pixels] = {}
        self._shades: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> Image.Image:
        try:
            return self._pictures[name]
        except KeyError:
            raise UserError(f"There is no sprite named {name!r}: choose one of the {len(self)} objects.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._pictures

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    @classmethod
    def from_font(cls, path: str | Path | None = None, names: Iterable[str] | None = None) -> "Sprites":
        """Draw the objects with a colour emoji font: ``path``, or else the one that fontconfig finds.

        ``names`` chooses objects (all of them by default).
        """
        font = _open_font(_find_font() if path is None else Path(path))
        pictures: dict[str, Image.Image] = {}
        for name in OBJECTS if names is None else names:
            if name not in OBJECTS:
                raise UserError(
                    f"There is no object named {name!r}: see diafano.training.data.OBJECTS for those there are."
                )
            pictures[name] = _draw(OBJECTS[name], font)
        return cls(pictures)

    @classmethod
    def from_sheet(cls, folder: str | Path) -> "Sprites":
        """Read what ``save_sheet`` wrote: one picture with all sprites, and an index of names in reading order."""
        folder = Path(folder)
        try:
            index = json.loads(read_text(folder / _INDEX))
            edge, columns, names = int(index["edge"]), int(index["columns"]), [str(name) for name in index["names"]]
            with Image.open(folder / _SHEET) as picture:
                sheet = picture.convert("RGBA")
        except FileNotFoundError as error:
            raise UserError(f"The sprite sheet {folder} lacks {Path(str(error.filename)).name}.") from error
        except (OSError, UnidentifiedImageError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"The sprite sheet {folder} cannot be read ({reason(error)}): write it again.") from error
        rows = -(-len(names) // columns) if columns > 0 else 0
        if edge < 1 or sheet.size != (columns * edge, rows * edge):
            raise UserError(f"The sprite sheet {folder} has a picture of {sheet.size}, which its index does not fit.")
        corners = [((i % columns) * edge, (i // columns) * edge) for i in range(len(names))]
        return cls({n: sheet.crop((x, y, x + edge, y + edge)) for n, (x, y) in zip(names, corners, strict=True)})

    @classmethod
    def shipped(cls) -> "Sprites":
        """The sheet that comes with the package, so that no font needs to be installed.

        It is drawn from the vectors of Noto Emoji (Apache 2.0) by ``recipes/sprite_sheet.py``.
        """
        with as_file(files("diafano.training.data.emoji") / "noto") as folder:
            return cls.from_sheet(folder)

    def save_sheet(self, folder: str | Path) -> None:
        """Write all sprites as one lossless WebP picture and a JSON index into ``folder``, which is made if needed."""
        edges = {picture.size for picture in self._pictures.values()}
        edge = next(iter(edges))[0]
        if edges != {(edge, edge)}:
            raise UserError(f"A sheet needs square sprites of one size, but these have {sorted(edges)}.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sheet = Image.new("RGBA", (_COLUMNS * edge, -(-len(self) // _COLUMNS) * edge))
        for i, picture in enumerate(self._pictures.values()):
            sheet.paste(picture, ((i % _COLUMNS) * edge, (i // _COLUMNS) * edge))
        index = {"edge": edge, "columns": _COLUMNS, "names": list(self)}
        with tempfile.TemporaryDirectory(dir=folder) as nearby:
            sheet.save(Path(nearby) / _SHEET, lossless=True, quality=100, method=6)
            text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
            (Path(nearby) / _INDEX).write_text(text, encoding="utf-8")
            for name in (_SHEET, _INDEX):
                (Path(nearby) / name).replace(folder / name)

    def sized(self, name: str, edge: int, tint: str | None = None) -> Pixels:
        """The sprite at ``edge`` pixels a side, recoloured by ``tint``: (edge, edge, 4) bytes, alpha not premultiplied.

        The array is shared: do not write to it.
        """
        key = (name, edge)
        if key not in self._sized:
            # Pillow resamples RGBA with premultiplied alpha, so no dark fringe appears.
            self._sized[key] = np.asarray(self[name].resize((edge, edge), Image.Resampling.LANCZOS))
        plain = self._sized[key]
        return plain if tint is None else tinted(plain, tint, self._shade(name))

    def _shade(self, name: str) -> NDArray[np.float32]:
        """Cached ``shade_curve`` of a sprite at its own size, so that every size is tinted alike."""
        if name not in self._shades:
            self._shades[name] = shade_curve(np.asarray(self[name]))
        return self._shades[name]


def shade_curve(sprite: Pixels) -> NDArray[np.float32]:
    """Luminance byte -> position in [-1, 1] between a tint's shadow and its shine: (256,).

    Each sprite's own median luminance goes to 0, the tint itself, so that a black penguin and a white sheep both take
    the colour; the spread around it is kept, as shading.
    """
    visible = sprite[..., 3] >= 128
    luminance = _luminance(sprite)[visible]
    middle = float(np.median(luminance)) if luminance.size else 127.5
    levels = np.arange(256, dtype=np.float32)
    # The floor keeps the few levels beyond a black or white median from being stretched over the whole range.
    reach = np.where(levels < middle, max(middle, _LEAST_REACH), max(255.0 - middle, _LEAST_REACH))
    return ((levels - middle) / reach).astype(np.float32)


def tinted(sprite: Pixels, tint: str, shade: NDArray[np.float32]) -> Pixels:
    """Recolour RGBA bytes: luminance runs from the tint's shadow through the tint to its shine; alpha is kept.

    ``shade`` is the sprite's ``shade_curve``.
    """
    if tint not in TINTS:
        raise UserError(f"There is no tint named {tint!r}: choose one of {', '.join(TINTS)}.")
    colour = np.asarray(TINTS[tint], np.float32)
    position = shade[:, None]  # (256, 1)
    table = np.where(
        position < 0,
        colour * (1 + _SHADOW * position),
        colour + (255 - colour) * (_SHINE * position),
    )
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)  # (256, 3)
    return np.concatenate([table[_luminance(sprite)], sprite[..., 3:]], axis=-1)


def _luminance(sprite: Pixels) -> Pixels:
    """Rec. 601 luma of RGBA bytes, (h, w) bytes."""
    weights = np.array([299, 587, 114], np.uint32)
    return ((sprite[..., :3].astype(np.uint32) @ weights + 500) // 1000).astype(np.uint8)


def _find_font() -> Path:
    """The installed colour emoji font, as fontconfig knows it."""
    remedy = "install the package fonts-noto-color-emoji (Debian, Ubuntu), or name a font file"
    tool = shutil.which("fc-list")
    if tool is None:
        raise UserError(f"No emoji font can be looked for, as fontconfig's fc-list is not installed: {remedy}.")
    answer = subprocess.run(
        [tool, "--format", "%{file}\n", "Noto Color Emoji"], capture_output=True, text=True, check=False
    )
    paths = sorted(line for line in answer.stdout.split("\n") if line)
    if not paths:
        raise UserError(f"The font Noto Color Emoji is not installed: {remedy}.")
    return Path(paths[0])


def _open_font(path: Path) -> ImageFont.FreeTypeFont:
    if not path.is_file():
        raise UserError(f"The font file {path} does not exist: check the path.")
    try:
        return ImageFont.truetype(str(path), _STRIKE)
    except OSError as error:
        raise UserError(
            f"{path} cannot be drawn as a colour emoji font at {_STRIKE} pixels ({reason(error)}):"
            " use NotoColorEmoji.ttf."
        ) from error


def _draw(thing: EmojiObject, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One object as a square of ``SPRITE_EDGE`` pixels, its longer side filling the square."""
    canvas = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
    ImageDraw.Draw(canvas).text((_STRIKE // 4, _STRIKE // 4), thing.character, font=font, embedded_color=True)
    if canvas.getchannel("A").getbbox() is None:
        raise UserError(f"The font has no picture for {thing.name} ({thing.character}): use Noto Color Emoji.")
    return squared(canvas)


def squared(picture: Image.Image) -> Image.Image:
    """What is visible of an RGBA picture as a square of ``SPRITE_EDGE`` pixels, its longer side filling the square."""
    drawn = picture.crop(picture.getchannel("A").getbbox())
    side = max(drawn.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square.resize((SPRITE_EDGE, SPRITE_EDGE), Image.Resampling.LANCZOS)
