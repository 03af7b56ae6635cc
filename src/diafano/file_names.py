"""Names of files: from a prompt, and without taking the place of a file that is there."""

import itertools
import re
import unicodedata
from pathlib import Path

LONGEST_NAME = 60
"""Letters of a prompt that a file's name takes."""


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
