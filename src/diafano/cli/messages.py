"""What the commands say on standard error: a mistake in one sentence, and notes."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from diafano.errors import UserError, collect_notes

# typer carries a copy of click and shows only this class of it; the one that it inherits from is every mistake on a
# command line: an unknown command or option, a missing argument, a word where a number belongs.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


@contextmanager
def show_notes() -> Iterator[None]:
    """Inside, notes are printed as they come, and so is what the package logs and what libraries warn of."""
    log, shown = logging.getLogger("diafano"), warnings.showwarning
    before = log.handlers, log.level
    log.handlers, warnings.showwarning = [_Notes()], _show_warning
    log.setLevel(logging.INFO)
    try:
        with collect_notes(_show):
            yield
    finally:
        log.handlers, warnings.showwarning = before[0], shown
        log.setLevel(before[1])


def sentence_about(error: Exception) -> str | None:
    """What to tell the user, or None where the mistake is ours and the traceback says more."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, USAGE_ERROR):
        return str(error.format_message()).replace("\n", " ")  # type: ignore[attr-defined]
    torch: Any = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return "the memory does not suffice: use a smaller --size or --count, or --dtype bfloat16"
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, UserError):
            return str(cause)
        name = ".".join(str(part) for part in first["loc"])
        return f"{name} {first['input']!r} is not possible: {first['msg']}"
    return None


def complain(sentence: str) -> None:
    print(f"diafano: {sentence}", file=sys.stderr)


def _show(sentence: str) -> None:
    complain(f"note: {sentence}")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _show(str(message))


class _Notes(logging.Handler):
    """Shows what the package logs like its notes."""

    def emit(self, record: logging.LogRecord) -> None:
        _show(record.getMessage())
