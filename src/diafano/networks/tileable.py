"""Tileable pictures: what leaves at one edge comes in at the opposite one, so that copies side by side show no seam.

Convolutions are what tells the edges of a picture apart from its middle: they are padded with zeros there. Inside
`tileable` they are padded with what lies at the opposite edge (A1111's "Tiling"), in all networks that run there, and
in no other thread. Norms and attention know no edges. The networks themselves are not touched.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

AXES = {"both": (True, True), "x": (True, False), "y": (False, True)}
"""Which of a picture's axes wrap around, (x, y), by the names that users type: x joins left and right."""

_wrapped: ContextVar[tuple[bool, bool]] = ContextVar("wrapped", default=(False, False))


def wrapped_axes() -> tuple[bool, bool]:
    """Whether x and y wrap around at this place of the program. Whoever pads without torch's `conv2d` has to ask."""
    return _wrapped.get()


def padded(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """x (batch, c, h, w) with columns and rows around it (left, right, above, below), zero unless that axis wraps."""
    left, right, above, below = sides
    wraps_x, wraps_y = wrapped_axes()
    # Joined by torch.cat, which keeps channels_last where circular padding does not.
    if wraps_x and (left or right):
        x = torch.cat([x[..., x.shape[-1] - left :], x, x[..., :right]], dim=3)
        left = right = 0
    if wraps_y and (above or below):
        x = torch.cat([x[:, :, x.shape[-2] - above :], x, x[:, :, :below]], dim=2)
        above = below = 0
    return F.pad(x, (left, right, above, below)) if left or right or above or below else x


@contextmanager
def tileable(axes: str | None) -> Iterator[None]:
    """Convolutions inside wrap around along `axes`, one of `AXES`; None leaves everything as it is."""
    if axes is None:
        yield
        return
    before = _wrapped.set(AXES[axes])
    try:
        with eager(), _Wrapping():
            yield
    finally:
        _wrapped.reset(before)


class _Wrapping(TorchFunctionMode):
    """Every convolution that would pad with zeros gets a `padded` map instead."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_conv2d if func is F.conv2d else func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """torch's `conv2d`, with its arguments' names."""
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    return F.conv2d(padded(input, (columns, columns, rows, rows)), weight, bias, stride, 0, dilation, groups)


@contextmanager
def eager() -> Iterator[None]:
    """Inside, networks run as they are written: for what is rare, and not worth minutes of compiling anew.

    torch knows this of the process only: for as long as one thread is inside, all threads' networks run so.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        yield
        return
    _eager.enter()
    try:
        yield
    finally:
        _eager.leave()


class _Eager:
    """Begins when the first thread enters and ends when the last one leaves, in whatever order they do."""

    def __init__(self) -> None:
        self._inside = 0
        self._lock = threading.Lock()
        self._stance = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stance.close()


_eager = _Eager()
