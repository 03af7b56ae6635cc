"""One thread at a time: a drawing changes the networks that it draws with, and threads may share them.

LoRAs are merged into weights, and fused or packed computations take the place of layers' own, for as long as a drawing
lasts. What belongs to a thread alone (wrapping around at the edges, notes, float32 for half precision) needs no turn.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from diafano.errors import UserError


@dataclass(eq=False)
class _Turn:
    layers: frozenset[nn.Module]
    thread: int = field(default_factory=threading.get_ident)
    running: bool = False

    def needs_the_end_of(self, other: "_Turn") -> bool:
        return other.thread != self.thread and not self.layers.isdisjoint(other.layers)


LOOK = 0.5
"""Seconds after which who waits looks up: not every system ends a wait for a lock on Ctrl-C."""

_turns: list[_Turn] = []
"""Those that run and those that wait, in the order in which they came."""
_changed = threading.Condition()


@contextmanager
def exclusive(*networks: nn.Module) -> Iterator[None]:
    """Inside, no other thread is inside with one of these networks, nor with a layer of them; it waits for its turn.

    Turns are taken in the order in which they are asked for; within one thread `exclusive` may lie inside another.
    Raises UserError where two threads would wait for each other for ever.
    """
    turn = _Turn(frozenset(layer for network in networks for layer in network.modules()))
    try:
        with _changed:
            _turns.append(turn)
            while not _may_run(turn):
                if _waits_for_itself(turn):
                    raise UserError(
                        "two drawings wait for each other: each is to draw, while it is drawing, with the other one's"
                        " model: draw with one model at a time"
                    )
                _changed.wait(LOOK)
            turn.running = True
        yield
    finally:
        try:
            _end(turn)
        except KeyboardInterrupt:  # the second Ctrl-C of someone impatient
            _end(turn)
            raise


def _end(turn: _Turn) -> None:
    """Also of one that still waits: whether it is in the list is all that the others ask."""
    with _changed:
        if turn in _turns:
            _turns.remove(turn)
        _changed.notify_all()


def _may_run(turn: _Turn) -> bool:
    """Whoever is inside already goes before those that wait, as these wait for it, too."""
    inside = any(other.running for other in _turns if other.thread == turn.thread)
    before = _turns[: _turns.index(turn)]
    return not any(
        turn.needs_the_end_of(other) for other in _turns if other.running or (other in before and not inside)
    )


def _waits_for_itself(turn: _Turn) -> bool:
    """Whether what it waits for waits, maybe through others, for its own thread."""
    waited_for, seen = [turn], set[int]()
    while waited_for:
        one = waited_for.pop()
        for thread in {other.thread for other in _turns if other.running and one.needs_the_end_of(other)}:
            if thread == turn.thread:
                return True
            if thread not in seen:
                seen.add(thread)
                waited_for += [other for other in _turns if other.thread == thread and not other.running]
    return False
