"""What a user is told in one sentence: the one error that is meant to be read, and notes, which end nothing.

A note comes back with the result, to whoever collects:

    with collect_notes() as notes:
        pictures = model.generate(prompt)
    print(*notes, sep="\\n")

Where nobody does, it goes to the log "diafano" as a warning, which Python prints on standard error.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

Checked = TypeVar("Checked", bound="BaseModel")


class UserError(ValueError):
    """Something a person asked for cannot be done.

    Its text is one sentence that says what was wrong, with which value, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """


def checked(kind: type[Checked], fields: Mapping[str, object]) -> Checked:
    """``kind(**fields)``, whose first mistake is raised as a UserError of one sentence."""
    from pydantic import ValidationError  # which takes its time, and nobody else needs it of this module

    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else kind.__name__
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, UserError):  # a validator's own sentence
            raise cause from None
        if first["type"] == "extra_forbidden":
            raise UserError(f"there is no setting {name!r}: use one of {', '.join(kind.model_fields)}") from None
        if first["type"] == "missing":
            raise UserError(f"{name} is missing: give {kind.model_fields[name].description}") from None
        field = kind.model_fields.get(name)
        wanted = first["msg"] if field is None or field.description is None else f"give {field.description}"
        raise UserError(f"{name} {first['input']!r} is not possible: {wanted}") from None


class Notes(list[str]):
    """Sentences, each once, in the order in which they were first said."""

    def __init__(self, tell: Callable[[str], object] | None = None) -> None:
        """`tell` hears each of them at once."""
        super().__init__()
        self._tell = tell

    def add(self, sentence: str) -> None:
        if sentence not in self:
            self.append(sentence)
            if self._tell is not None:
                self._tell(sentence)


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)
"""A thread starts without, and so does not hear what is said in another one."""


def note(sentence: str) -> None:
    """Tell the user something that ends nothing: what was left out, guessed, or done otherwise than asked for."""
    collected = _notes.get()
    if collected is None:
        logging.getLogger("diafano").warning("%s", sentence)
    else:
        collected.add(sentence)


@contextmanager
def collect_notes(tell: Callable[[str], object] | None = None) -> Iterator[Notes]:
    """What is noted inside, in this thread; `tell`, if given, hears each note at once, and once.

    Of several around each other the innermost collects. Whoever wants to pass on what was said calls `note` with it.
    """
    collected = Notes(tell)
    before = _notes.set(collected)
    try:
        yield collected
    finally:
        _notes.reset(before)
