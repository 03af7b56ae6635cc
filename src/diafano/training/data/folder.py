"""A folder of captioned pictures, laid out as people have them.

Either each picture has its caption beside it (``apple.png`` and ``apple.txt``), or one table names both:
``metadata.jsonl`` or ``metadata.csv`` with the columns ``file_name`` and ``text``, as Hugging Face's imagefolder reads.
Folders within are searched too, linked ones as well; files and folders whose names begin with a dot are not. A caption
may end in ``.txt`` or ``.caption``, in capitals too. What is left out of such a folder, as no picture or caption is
beside it that can be read, is told in a note.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from diafano.errors import UserError, note
from diafano.files import files_below, lines_of, read_text, refusal, shortened
from diafano.pictures.files import read_picture
from diafano.pictures.pixels import fit
from diafano.training.data.example import Example

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""File name endings, in lower case, that count as pictures."""
CAPTION_SUFFIXES = (".txt", ".caption")
"""Those of captions beside them, the one that is read first; kohya's scripts write the second one."""
UNREAD_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jfif", ".jxl", ".svg", ".psd", ".ico", ".tga", ".apng"})
"""Those of pictures that are left out."""


class PictureFolder:
    """Captioned pictures of a folder, subfolders included, in a fixed order.

    Captions are checked when the folder is opened; a picture is read when its example is asked for.
    """

    def __init__(self, path: str | Path, size: int | tuple[int, int]) -> None:
        """``size``: width and height to fit pictures to (resize, then crop the middle), or one number for a square."""
        self.path = Path(path)
        self.width, self.height = (size, size) if isinstance(size, int) else size
        if self.width < 1 or self.height < 1:
            raise UserError(f"Pictures cannot be fitted to {self.width}x{self.height}: give a positive size.")
        if not self.path.is_dir():
            raise UserError(f"There is no folder {self.path}: give a folder of captioned pictures.")
        tables = [table for name in ("metadata.jsonl", "metadata.csv") if (table := self.path / name).is_file()]
        if len(tables) == 2:
            raise UserError(f"{self.path} has both metadata.jsonl and metadata.csv: keep one.")
        self.captions: tuple[tuple[Path, str], ...] = tuple(
            _from_table(tables[0]) if tables else _from_captions_beside(self.path)
        )
        if not self.captions:
            raise UserError(f"There are no pictures in {self.path}: give a folder with {', '.join(sorted(SUFFIXES))}.")

    def __len__(self) -> int:
        return len(self.captions)

    def example(self, index: int) -> Example:
        """Picture (height, width, 3) and caption number ``index``; indices past the end start over."""
        path, caption = self.captions[index % len(self)]
        picture = fit(read_picture(path), self.width, self.height)
        return Example(np.array(picture.convert("RGB")), caption)

    def caption(self, index: int, wording: int = 0) -> str:
        """The caption alone; there is but one wording."""
        return self.captions[index % len(self)][1]


def _from_captions_beside(folder: Path) -> Iterator[tuple[Path, str]]:
    """Pictures in order of their names, each with the text of the caption's file of the same stem."""
    files = files_below(folder)
    captions: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in CAPTION_SUFFIXES:
            captions.setdefault(path.with_suffix(""), []).append(path)
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    for picture in pictures:
        # One in small letters first, as it was before there were others.
        beside = sorted(captions.get(picture.with_suffix(""), ()), key=_rank)
        if not beside:
            name = picture.with_suffix(".txt").name
            raise UserError(f"{picture} has no caption: write it into {name} beside it, or add a metadata.jsonl.")
        yield picture, _caption(_text_of(beside[0]), str(beside[0]))
    unread = [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES]
    if unread:
        note(f"{_counted(unread, 'picture')} left out, as that form is not read: save them as PNG, JPEG or WebP")
    known = {path.with_suffix("") for path in (*pictures, *unread)}
    alone = [path for stem in captions.keys() - known for path in captions[stem]]
    if alone and pictures:
        note(f"{_counted(sorted(alone), 'caption')} left out, as no picture of that name is beside it")


def _rank(caption: Path) -> tuple[int, bool, str]:
    suffix = caption.suffix
    return CAPTION_SUFFIXES.index(suffix.lower()), suffix != suffix.lower(), suffix


def _counted(paths: Sequence[Path], what: str) -> str:
    return f"the {what} {paths[0]} is" if len(paths) == 1 else f"{len(paths)} {what}s, {paths[0]} the first, are"


def _from_table(table: Path) -> Iterator[tuple[Path, str]]:
    """Pictures in the order of the table's rows."""
    rows = _csv_rows(table) if table.suffix == ".csv" else _json_rows(table)
    for number, row in rows:
        where = f"{table}, line {number}"
        name, text = row.get("file_name"), row.get("text")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where} has no file_name: give file_name and text in each row.")
        name = _spelt(name, f"{where} has a file_name with")
        picture = table.parent / name
        if "\\" in name and not picture.is_file():  # Windows' way to write a folder
            picture = table.parent / name.replace("\\", "/")
        # By its name alone: a linked folder inside is inside.
        if not Path(os.path.normpath(picture)).is_relative_to(os.path.normpath(table.parent)):
            raise UserError(f"{where} names {name!r}, which lies outside the folder: keep pictures inside it.")
        try:
            there = picture.is_file()
        except OSError as error:  # such as a name too long
            raise UserError(
                f"{where} names {shortened(name)}, which cannot be used ({error.strerror}): correct the row."
            ) from error
        if not there:
            raise UserError(f"{where} names {name!r}, which does not exist: add the picture or remove the row.")
        yield picture, _caption(text, where)


def _json_rows(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(lines_of(_text_of(table)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter of what is nested without end
            raise UserError(f"{table}, line {number} is not JSON ({error}): write one object per line.") from error
        if not isinstance(row, dict):
            raise UserError(f"{table}, line {number} is not a JSON object: write file_name and text as its keys.")
        yield number, row


def _csv_rows(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(_text_of(table), newline=""))
    try:
        header = list(reader.fieldnames or ())
        if not {"file_name", "text"} <= set(header):
            raise UserError(f"{table} has the columns {header}: its first line must name file_name and text.")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{table}, line {reader.line_num} is not CSV ({error}): quote texts that hold quotes."
        ) from error


def _text_of(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise UserError(refusal(error, path)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}): save it as UTF-8.") from error


def _caption(text: object, where: str) -> str:
    """A caption on one line, without surrounding space."""
    if not isinstance(text, str) or not (words := " ".join(text.split())):
        raise UserError(f"{where} has no caption: write what the picture shows.")
    return _spelt(words, f"{where} has a caption with")


def _spelt(text: str, what: str) -> str:
    """The text, which must be one that can be written: without NUL, and without half a letter (a lone surrogate)."""
    if "\0" in text:
        raise UserError(f"{what} the character NUL in it: save it as UTF-8, without NUL.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise UserError(f"{what} {half!r} in it, which is half a letter: write the whole letter, or none.") from error
    return text
