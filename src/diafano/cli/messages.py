"""What the commands say: results on standard output; a mistake in one sentence, and notes, on standard error.

Saying never fails. Whatever is printed, by us or by a library, goes through a `Steady` stream, which spells what the
terminal cannot, and throws away what nobody can take: a report must not cost the pictures that it is about.
"""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

import typer

from diafano.errors import UserError, collect_notes
from diafano.files import refusal

# typer carries a copy of click and shows only this class of it; the one that it inherits from is every mistake on a
# command line: an unknown command or option, a missing argument, a word where a number belongs.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


class Steady(io.TextIOBase):
    """A standard stream that takes everything that is written to it.

    What its encoding lacks is written as an escape (``\\u85cb``). After the first failure nothing more is written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """None: the stream was closed before the program began."""
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):  # click finds out by this what a stream takes
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._try(lambda stream: self._spell(stream, text))
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        with suppress(ValueError, OSError):
            return self.stream is not None and self.stream.isatty()
        return False

    def fileno(self) -> int:
        if self.stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    @staticmethod
    def _spell(stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # of nothing that was written: a text is encoded as a whole
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _try(self, use: Callable[[TextIO], object]) -> None:
        if self.failure is not None:
            return
        try:
            if self.stream is None:
                raise OSError(errno.EBADF, "it is closed")
            use(self.stream)
        except OSError as error:
            self.failure = error
            self._discard()
        except ValueError as error:  # of a stream that somebody has closed
            self.failure = OSError(errno.EBADF, str(error))

    def _discard(self) -> None:
        """What the stream still holds goes nowhere, or Python would try it once more at its end, and complain."""
        with suppress(OSError, ValueError):
            if any(self.stream is own is not None for own in (sys.__stdout__, sys.__stderr__)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


@contextmanager
def steady_streams() -> Iterator[Steady]:
    """Inside, both standard streams are steady; standard output is what comes of it."""
    _occupy()
    before = sys.stdout, sys.stderr
    out, err = Steady(sys.stdout), Steady(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Numbers of standard streams that are closed lead nowhere: the next file that is opened would get them, and with
    it what a library prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


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
        option = str(getattr(error, "option_name", None) or "")
        if option.startswith("-") and not option.startswith("--"):  # hardly a mistyped one: all but -h have two hyphens
            return f"there is no option {option}: if a text begins so, write -- before it, behind all options"
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
    return _about_files(error)


def _about_files(error: Exception) -> str | None:
    """Of what files refuse, wherever nobody else has said it better."""
    if isinstance(error, OSError):
        return refusal(error)
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r} holds letters that cannot be written ({error.reason}): leave them out"
    if type(error) is ValueError and "null" in str(error):  # a name with a NUL inside
        return f"a name of a file is not possible ({error}): leave the NUL out"
    safetensors: Any = sys.modules.get("safetensors")
    if safetensors is not None and isinstance(error, safetensors.SafetensorError):
        return f"a file of weights cannot be used ({error}): make room, or replace it"
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
