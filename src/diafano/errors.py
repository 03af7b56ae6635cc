"""What a user is told in one sentence: the one error that is meant to be read, and notes, which end nothing.

A note comes back with the result, to whoever collects:

    with collect_notes() as notes:
        pictures = model.generate(prompt)
    print(*notes, sep="\\n")

Where nobody does, it goes to the log "diafano" as a warning, which Python prints on standard error.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class UserError(ValueError):
    """Something a person asked for cannot be done.

    Its text is one sentence that says what was wrong, with which value, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """


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
