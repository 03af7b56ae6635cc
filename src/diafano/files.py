"""Files that are there as a whole or not at all; names for them that take no other file's place; texts and folders as
people make them."""

import itertools
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diafano.errors import note

CACHE = "XDG_CACHE_HOME"
"""The variable that names the user's folder for what can be made again (XDG base directory specification)."""
LONGEST_NAME = 60
"""Letters of a prompt that a file's name takes."""


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; what was written takes the target's place when the block ends.

    After an error the target is as it was, and nothing is left beside it.
    """
    # Not tempfile.mkstemp: its files are private to the user, and these follow the umask like any other file.
    unfinished = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """The text as a `whole_file`, in UTF-8."""
    with whole_file(target) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def cache_folder(name: str) -> Path:
    """Where the package keeps what takes long to make, a folder for each kind: in one of the user's own."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache") / "diafano" / name


def slug(prompt: str) -> str:
    """``Two red äpples, on blue!`` -> ``two-red-apples-on-blue``; letters of any script stay."""
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", prompt.lower()) if not unicodedata.combining(letter)
    )
    return re.sub(r"[\W_]+", "-", plain)[:LONGEST_NAME].strip("-") or "picture"


def unused(path: Path) -> Path:
    """The path, or the next one, numbered from 2, that no file has."""
    if not path.exists():
        return path
    return next(
        other for number in itertools.count(2) if not (other := path.with_stem(f"{path.stem}-{number}")).exists()
    )


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte-order mark or without. Raises OSError or UnicodeDecodeError."""
    return path.read_text(encoding="utf-8-sig")


def lines_of(text: str) -> list[str]:
    """The lines of a text that `read_text` has read: they end at line feeds and nowhere else.

    `str.splitlines` also cuts at letters that are part of a line: U+2028, U+2029, U+0085 and some of ASCII's.
    """
    return text.removesuffix("\n").split("\n") if text else []


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and in the folders within, in the order of their names. Hidden ones are none of them.

    Linked folders are entered. One that leads to a folder whose files are taken already, such as one around itself, is
    not, and a note says so.
    """
    known: dict[str, Path] = {}
    waiting, linked, found = [folder], list[Path](), list[Path]()
    while waiting or linked:
        # What is there comes before what is only linked: of a folder and its link, the folder's files are taken.
        at = waiting.pop() if waiting else linked.pop(0)
        before = known.setdefault(os.path.realpath(at), at)
        if before is not at:
            note(f"{at} leads to {before}, whose files are there already: they count once")
            continue
        try:
            entries = sorted(at.iterdir())
        except OSError as error:
            note(f"the folder {at} cannot be read ({error.strerror}): it is left out")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(entry)
            elif entry.is_file():
                found.append(entry)
            elif entry.is_symlink():
                note(f"{entry} links to what is not there: it is left out")
    return sorted(found)
