"""All pictures of an evaluation on one sheet, by task, with prompts and verdicts: numbers do not show blur."""

from PIL import Image, ImageDraw, ImageFont

from diafano.evaluation.scoring import JudgedPrompt, Result
from diafano.training.data.emoji.scene_sampler import TASKS

COLUMNS = 15
SHOWN_EDGE = 128
"""Pixels a side at which pictures are shown; smaller ones are enlarged by a whole number, so pixels stay pixels."""
FRAME, GAP = 4, 10
"""Width of a picture's frame, and distance between cells."""
LETTERS, LINE = 11, 14
"""Height of letters and of lines, in pixels."""
HEADING = 20
TEXT_LINES = 6
"""Lines of text below a picture; what does not fit is cut."""
PASSED, FAILED, INK = (22, 140, 60), (208, 32, 40), (32, 32, 32)


def gallery(result: Result, columns: int = COLUMNS) -> Image.Image:
    """A sheet with a heading for each task; green frames passed, red ones did not, and say why."""
    cell = SHOWN_EDGE + 2 * FRAME
    height = cell + TEXT_LINES * LINE
    groups = [(task, result.of(task)) for task in TASKS if result.of(task)]
    rows = sum(-(-len(ones) // columns) for _, ones in groups)
    sheet = Image.new(
        "RGB",
        (columns * (cell + GAP) + GAP, rows * (height + GAP) + len(groups) * (HEADING + 2 * GAP) + GAP),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for task, ones in groups:
        passed = sum(one.passed for one in ones)
        pen.text((GAP, top), f"{task.replace('_', ' ')}: {passed} of {len(ones)}", INK, _font(HEADING - 2))
        top += HEADING + GAP
        for index, one in enumerate(ones):
            row, column = divmod(index, columns)
            _draw_cell(sheet, pen, one, GAP + column * (cell + GAP), top + row * (height + GAP))
        top += -(-len(ones) // columns) * (height + GAP) + GAP
    return sheet


def _draw_cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, one: JudgedPrompt, left: int, top: int) -> None:
    colour = PASSED if one.passed else FAILED
    cell = SHOWN_EDGE + 2 * FRAME
    pen.rectangle((left, top, left + cell - 1, top + cell - 1), outline=colour, width=FRAME)
    picture = _shown(one.picture)
    inset = (SHOWN_EDGE - picture.width) // 2 + FRAME, (SHOWN_EDGE - picture.height) // 2 + FRAME
    sheet.paste(picture, (left + inset[0], top + inset[1]))
    font = _font(LETTERS)
    verdict = "pass" if one.passed else f"fail: {one.why}"
    lines = [(line, INK) for line in wrapped(one.prompt.text, font, cell)]
    lines += [(line, colour) for line in wrapped(verdict, font, cell)]
    for number, (line, ink) in enumerate(lines[:TEXT_LINES]):
        pen.text((left, top + cell + number * LINE), line, ink, font)


def _shown(picture: Image.Image) -> Image.Image:
    """At most `SHOWN_EDGE` a side, and as near to it as whole pixels allow."""
    longer = max(picture.size)
    if longer > SHOWN_EDGE:
        width, height = (max(1, round(edge * SHOWN_EDGE / longer)) for edge in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    times = SHOWN_EDGE // longer
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Text in lines of at most `width` pixels; a word that is longer stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
