"""How far a command is, on standard error: a bar where that is a terminal, else a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


SILENCE = 20.0
"""Seconds from one line to the next where there is no terminal."""


@dataclass
class Bar:
    progress: "Progress"
    task: "TaskID"
    lines: bool
    what: str = ""
    total: int = 0
    done: int = 0
    begun: float = 0.0
    told: float = 0.0

    def begin(self, what: str, total: int) -> None:
        """From now on it is `what` that goes on, in `total` steps."""
        self.progress.update(self.task, description=what, total=total)
        self.what, self.total, self.done = what, total, 0
        self.begun = self.told = time.monotonic()

    def at(self, done: int, total: int) -> None:
        """So many steps are done, of a total that only now is known."""
        if total != self.total:
            self.begin(self.what, total)
        while self.done < done:
            self.advance()

    def advance(self) -> None:
        """A step is done."""
        self.progress.advance(self.task)
        self.done += 1
        now = time.monotonic()
        if self.lines and now - self.told >= SILENCE and self.done < self.total:
            self.told = now
            left = round((now - self.begun) / self.done * (self.total - self.done))
            print(
                f"{self.what}: {self.done} of {self.total}, {left // 60}:{left % 60:02d} left",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def bar() -> Iterator[Bar]:
    """A bar for a block, which begins by loading a model."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task("loading the model", total=None), lines=not console.is_terminal)
