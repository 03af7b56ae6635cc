"""Files that are there as a whole or not at all; names for them, from a prompt, that take no other file's place."""

import itertools
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
