"""A file that is there as a whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
