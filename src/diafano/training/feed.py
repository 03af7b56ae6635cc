"""Batches of captioned pictures made while they are trained on: in worker processes, a few ahead, none kept."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diafano.training.data.example import Example

AHEAD = 4
"""Batches that are being made, or wait, at a time."""
WINDOW_TRIES = 4


class Source(Protocol):
    """Captioned pictures by number: a folder of them, or scenes."""

    def example(self, index: int) -> Example: ...


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which examples make a batch, and what of them."""

    indices: NDArray[np.int64]
    window: int | None = None
    """Edge of a square window to cut from each picture, in pixels; whole pictures if None."""
    seed: tuple[int, int] = (0, 0)
    """Of the windows' places."""


@dataclass(frozen=True, eq=False)
class Made:
    """A batch."""

    pixels: NDArray[np.uint8]
    """(count, height, width, 3), sRGB bytes."""
    captions: list[str]


def make(source: Source, wanted: Wanted) -> Made:
    """The batch that is wanted, now and here."""
    examples = [source.example(int(index)) for index in wanted.indices]
    pixels = np.stack([example.pixels for example in examples])
    if wanted.window is not None:
        pixels = windows(pixels, wanted.window, np.random.default_rng(wanted.seed))
    return Made(pixels, [example.caption for example in examples])


def windows(pixels: NDArray[np.uint8], edge: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square window of each picture, the most varied of a few places of chance: (count, edge, edge, 3).

    Convolutions learn little from flat surroundings, which are most of many pictures.
    """
    places = rng.integers(0, pixels.shape[1] - edge + 1, size=(len(pixels), WINDOW_TRIES, 2))
    chosen = np.empty((len(pixels), edge, edge, 3), np.uint8)
    for row, (picture, tries) in enumerate(zip(pixels, places, strict=True)):
        cut = [picture[top : top + edge, left : left + edge] for top, left in tries]
        chosen[row] = max(cut, key=lambda window: float(window.std(axis=(0, 1)).sum()))
    return chosen


class Feed:
    """The batch of a number: `wanted` says which, `processes` make it (0: the caller does) while others are used.

    What a number gives does not depend on the processes, nor on which batches were asked for before.
    """

    def __init__(self, source: Source, wanted: Callable[[int], Wanted], processes: int = 0) -> None:
        self.source, self.wanted = source, wanted
        self.pool: ProcessPoolExecutor | None = None
        if processes > 0:
            # Spawned: a fork would copy torch's threads in an unknown state.
            self.pool = ProcessPoolExecutor(
                processes, mp_context=get_context("spawn"), initializer=_start, initargs=(source,)
            )
        self._coming: dict[int, Future[Made]] = {}
        self._newest = -1
        self._lock = Lock()

    def __call__(self, number: int) -> Made:
        if self.pool is None:
            return make(self.source, self.wanted(number))
        with self._lock:  # several batches are trained on at a time
            coming = range(max(number, self._newest) + 1, number + AHEAD + 1)
            for one in (*([] if number in self._coming else [number]), *coming):
                self._coming[one] = self.pool.submit(_make, self.wanted(one))
            self._newest = max(self._newest, number + AHEAD)
            future = self._coming.pop(number)
        return future.result()

    def close(self) -> None:
        """Let the worker processes end."""
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)


def in_order(source: Source, numbers: Sequence[int], batch: int, processes: int = 0) -> Iterator[Made]:
    """The examples of these numbers, in batches."""
    parts = [np.array(numbers[first : first + batch], np.int64) for first in range(0, len(numbers), batch)]
    feed = Feed(source, lambda number: Wanted(parts[min(number, len(parts) - 1)]), processes)
    try:
        for number in range(len(parts)):
            yield feed(number)
    finally:
        feed.close()


_source: Source | None = None
"""In a worker process: what it makes examples of."""


def _start(source: Source) -> None:
    global _source
    _source = source


def _make(wanted: Wanted) -> Made:
    assert _source is not None
    return make(_source, wanted)
