"""A Brownian path that a seed fixes once for all: the noise of k-diffusion's SDE samplers (its "Brownian tree").

A path over [start, end] is a tree of increments: that of the whole interval, the share of it that falls into the left
half, the shares of the quarters, and so on (Lévy's construction), each from a generator whose seed is made of the
path's seed and of the place in the tree. So the increment between any two times is the same whatever was asked before,
and a run of other steps follows the same path. How seeds are made and times rounded is torchsde's (Li et al. 2020,
"Scalable gradients for stochastic differential equations"), so that the same seed has the same path as there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

DIGITS = 6
"""Times are rounded to so many decimals: the tree ends there."""
POOL = 24
"""Words of entropy that numpy mixes for each seed."""
REMEMBERED = 64
"""Increments that are kept: those above the two ends of a step, so that the next step finds one of its ends."""

Draw = Callable[[Sequence[int]], Tensor]
"""A seeded generator: shape -> unit-normal float32 numbers on the CPU, other ones at each call."""


@dataclass(frozen=True)
class _Interval:
    """A node: its place in the tree is (depth, number), numbers counting from the left."""

    start: float
    end: float
    depth: int
    number: int

    @property
    def middle(self) -> float:
        return round(0.5 * (self.end + self.start), DIGITS)

    @property
    def halves(self) -> "tuple[_Interval, _Interval]":
        depth, number = self.depth + 1, 2 * self.number
        return (
            _Interval(self.start, self.middle, depth, number),
            _Interval(self.middle, self.end, depth, number + 1),
        )


class BrownianPath:
    """``path(now, after)`` is what the path of `seed` adds between two times of [start, end]: variance is time."""

    def __init__(
        self, seed: int, shape: Sequence[int], start: float, end: float, generator: Callable[[int], Draw]
    ) -> None:
        """`generator` makes a `Draw` of a seed, of which the first numbers of `shape` are taken."""
        self._seed, self._shape, self._generator = seed, tuple(shape), generator
        self._length = single(end) - single(start)
        self._whole = _Interval(round(single(start), DIGITS), round(single(end), DIGITS), 0, 0)
        self._increment = lru_cache(maxsize=REMEMBERED)(self._make_increment)

    def __call__(self, now: float, after: float) -> Tensor:
        first, last = (
            min(max(round(single(time), DIGITS), self._whole.start), self._whole.end) for time in sorted((now, after))
        )
        if first == last:
            return 0.0 * self._increment((self._whole,))
        between = self._between((self._whole,), first, last)
        return between if now <= after else -between

    def _between(self, branch: tuple[_Interval, ...], first: float, last: float) -> Tensor:
        """The increment over [first, last], which lies in the last interval of a branch from the root."""
        here = branch[-1]
        if first == here.start and last == here.end:
            return self._increment(branch)
        left, right = here.halves
        if last <= left.end:
            return self._between((*branch, left), first, last)
        if first >= right.start:
            return self._between((*branch, right), first, last)
        return self._between((*branch, left), first, left.end) + self._between((*branch, right), right.start, last)

    def _make_increment(self, branch: tuple[_Interval, ...]) -> Tensor:
        here = branch[-1]
        if len(branch) == 1:
            return self._noise(()) * math.sqrt(self._length)
        above = branch[-2]
        whole = self._increment(branch[:-1])
        left, right = above.middle - above.start, above.end - above.middle
        share = 1.0 / (above.end - above.start)
        noise = self._noise((above.number, above.depth))
        in_left = left * whole * share + math.sqrt(left * right * share) * noise
        return in_left if here.number % 2 == 0 else whole - in_left

    def _noise(self, place: tuple[int, ...]) -> Tensor:
        sequence = np.random.SeedSequence(entropy=self._seed, spawn_key=place, pool_size=POOL)
        return self._generator(int(sequence.generate_state(1)[0]))(self._shape)


def single(time: float) -> float:
    """The nearest number of single precision, in which k-diffusion keeps its times."""
    return float(np.float32(time))
