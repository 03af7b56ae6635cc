"""The clock of a run: one for all that take part in it."""

from dataclasses import dataclass


@dataclass
class Clock:
    """Which step a run is in, and how often the network was asked in it so far.

    `run` alone moves it; guidance that changes from step to step, controls and caches read it.
    """

    step: int = 0
    """0 for the first."""
    call: int = 0
    """0 while the network answers for the first time in this step."""

    def move_to(self, step: int) -> None:
        self.step, self.call = step, 0
