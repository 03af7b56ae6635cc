"""Pictures in columns, rows and blocks, with what they are written beside them."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from diafano.jobs.experiment.axes import PROMPT, Axis

SMALLEST_EDGE = 128
"""Smaller pictures are shown enlarged, a whole number of times, so that there is room for their labels."""
LARGEST_SHEET = 12_000
"""Pixels; where the sheet would be wider or higher, its pictures are shown smaller."""
LONGEST_LINES = 6
GAP, TEXT, LINE = 6, 13, 17  # pixels: between cells, of a letter, of a line
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Place = tuple[int, ...]


def sheet(axes: Sequence[Axis], pictures: Mapping[Place, Image.Image]) -> Image.Image:
    """The first axis goes to the right, the second down, the third in blocks one below the other.

    Places of which there is no picture stay grey. One axis alone is laid out in rows of about a square, each picture
    above its label.
    """
    if len(axes) == 1:
        return _wrapped(axes[0], pictures)
    width, height = _cell_size(axes, pictures)
    font = ImageFont.load_default(TEXT)
    across, down, *deep = axes
    heads = [_lines(text, width, font) for text in _named(across)]
    sides = [_lines(text, max(width, 140), font) for text in _named(down)]
    left = GAP * 2 + max(_width(line, font) for lines in sides for line in lines)
    top = GAP * 2 + LINE * max(map(len, heads))
    title = LINE + GAP if deep else 0
    block = title + top + len(down.labels) * (height + GAP)
    blocks = len(deep[0].labels) if deep else 1
    page = Image.new("RGB", (left + len(across.labels) * (width + GAP), blocks * block), "white")
    draw = ImageDraw.Draw(page)
    for index in range(blocks):
        start = index * block + title
        if deep:
            draw.text((GAP, index * block + GAP), _named(deep[0])[index], "black", font)
        for column, lines in enumerate(heads):
            x = left + column * (width + GAP) + width // 2
            for number, line in enumerate(lines):
                y = start + top - GAP - LINE * (len(lines) - number)
                draw.text((x, y), line, "black", font, anchor="ma")
        for row, lines in enumerate(sides):
            y = start + top + row * (height + GAP)
            for number, line in enumerate(lines):
                draw.text((left - GAP, y + height // 2 + LINE * number - LINE * len(lines) // 2), line, "black", font,
                          anchor="ra")  # fmt: skip
            for column in range(len(across.labels)):
                place = (column, row, *([index] if deep else []))
                _paste(page, pictures.get(place), (left + column * (width + GAP), y), (width, height))
    return page


def _wrapped(axis: Axis, pictures: Mapping[Place, Image.Image]) -> Image.Image:
    width, height = _cell_size([axis], pictures)
    font = ImageFont.load_default(TEXT)
    labels = [_lines(text, width, font) for text in _named(axis)]
    columns = _columns(len(labels))
    rows = -(-len(labels) // columns)
    tall = height + LINE * max(map(len, labels)) + 2 * GAP
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * tall + GAP), "white")
    draw = ImageDraw.Draw(page)
    for index, lines in enumerate(labels):
        x, y = GAP + index % columns * (width + GAP), GAP + index // columns * tall
        _paste(page, pictures.get((index,)), (x, y), (width, height))
        for number, line in enumerate(lines):
            draw.text((x + width // 2, y + height + GAP // 2 + LINE * number), line, "black", font, anchor="ma")
    return page


def _named(axis: Axis) -> list[str]:
    """What is written beside the places of an axis; prompts speak for themselves."""
    return [label if axis.name == PROMPT else f"{axis.name} {label}" for label in axis.labels]


def _columns(count: int) -> int:
    """Up to 6 in one row; else rows of about a square."""
    return count if count <= 6 else round(count**0.5 + 0.5)


def _cell_size(axes: Sequence[Axis], pictures: Mapping[Place, Image.Image]) -> tuple[int, int]:
    """(width, height) in which each picture is shown; the largest picture's, enlarged or made smaller."""
    width = max((picture.width for picture in pictures.values()), default=SMALLEST_EDGE)
    height = max((picture.height for picture in pictures.values()), default=SMALLEST_EDGE)
    scale = float(-(-SMALLEST_EDGE // min(width, height)))
    counts = [len(axis.labels) for axis in axes]
    across = counts[0] if len(counts) > 1 else _columns(counts[0])
    down = -(-counts[0] // across) if len(counts) == 1 else counts[1] * (counts[2] if len(counts) > 2 else 1)
    scale = min(scale, LARGEST_SHEET / (width * across), LARGEST_SHEET / (height * down))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _paste(page: Image.Image, picture: Image.Image | None, at: tuple[int, int], size: tuple[int, int]) -> None:
    """In the cell's middle, as large as it goes."""
    if picture is None:
        page.paste("#dddddd", (*at, at[0] + size[0], at[1] + size[1]))
        return
    scale = min(size[0] / picture.width, size[1] / picture.height)
    shown = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    page.paste(shown, (at[0] + (size[0] - shown.width) // 2, at[1] + (size[1] - shown.height) // 2))


def _lines(text: str, width: int, font: Font) -> list[str]:
    """The text in lines of at most so many pixels, where its words allow it."""
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_shortened(word, width, font))
    if len(lines) > LONGEST_LINES:
        lines = [*lines[: LONGEST_LINES - 1], _shortened(f"{lines[LONGEST_LINES - 1]}...", width, font)]
    return lines or [""]


def _shortened(word: str, width: int, font: Font) -> str:
    if _width(word, font) <= width:
        return word
    while len(word) > 1 and _width(f"{word}...", font) > width:
        word = word[:-1]
    return f"{word}..."


def _width(text: str, font: Font) -> int:
    left, _, right, _ = font.getbbox(text)
    return round(right - left)
