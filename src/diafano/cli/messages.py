"""What the commands say on standard error: a mistake in one sentence, and notes."""

import logging
import sys
import warnings
from typing import Any

import typer

from diafano.errors import UserError

# typer carries a copy of click and shows only this class of it; the one that it inherits from is every mistake on a
# command line: an unknown command or option, a missing argument, a word where a number belongs.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def show_notes() -> None:
    """From now on warnings, and what the package logs, are shown as notes."""
    warnings.showwarning = _show_warning
    log = logging.getLogger("diafano")
    log.handlers = [_Notes()]
    log.setLevel(logging.INFO)


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


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"note: {message}")


class _Notes(logging.Handler):
    """Shows what the package logs like its warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"note: {record.getMessage()}")
