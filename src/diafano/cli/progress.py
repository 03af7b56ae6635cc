"""A bar on standard error that shows how far a command is, where that is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class Bar:
    progress: "Progress"
    task: "TaskID"

    def begin(self, what: str, total: int) -> None:
        """From now on it is `what` that goes on, in `total` steps."""
        self.progress.update(self.task, description=what, total=total)

    def advance(self) -> None:
        """A step is done."""
        self.progress.advance(self.task)


@contextmanager
def bar() -> Iterator[Bar]:
    """A bar for a block, which begins by loading a model."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task("loading the model", total=None))
