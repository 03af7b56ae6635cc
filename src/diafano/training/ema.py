"""Exponential moving average of weights: what sampling and saving use, as it is smoother than the last update."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Holds the average of a module's parameters. `update` after each optimiser step; `applied` to use it.

    A decay of 0 is the weights themselves: nothing is held then.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._trained: list[Tensor] = list(module.parameters()) if decay > 0 else []
        self._average = [parameter.detach().clone() for parameter in self._trained]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the weights by 1 - decay; early on by more, so that the random start is forgotten."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self._trained:
            torch._foreach_lerp_(self._average, self._trained, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._trained, self._average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, object]:
        return {"updates": self.updates, "average": self._average}

    def load(self, state: dict[str, object]) -> None:
        updates, average = state["updates"], state["average"]
        assert isinstance(updates, int) and isinstance(average, list)
        self.updates = updates
        if not self._trained:  # what was held before does not matter any more
            return
        for mine, stored in zip(self._average, average, strict=True):
            assert isinstance(stored, Tensor)
            mine.copy_(stored)
