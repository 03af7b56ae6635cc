"""Whether the library or torch is faster at an operation that is mostly products: linear, convolution, attention.

Without AMX it is the library. With AMX both are fast, and which is faster is measured: the first time, in less than a
second, on shapes of Stable Diffusion, and kept beside the library.
"""

import contextlib
import functools
import logging
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from diafano.engine import native_operations as by_library
from diafano.engine import torch_operations as by_torch
from diafano.engine.build import Tiles, built, multiplies_by
from diafano.engine.devices import to_channels_last
from diafano.files import write_text

if TYPE_CHECKING:
    from diafano.engine.operations import Operations

RUNS = 5


class Shares(BaseModel):
    """The library's time over torch's."""

    linear: float
    convolution: float
    attention: float


@functools.cache
def faster(operation: str) -> "Operations":
    """`native_operations` or `torch_operations`; operation is the name of one of the `Shares`."""
    return by_library if multiplies_by() != Tiles.AMX or getattr(shares(), operation) <= 1 else by_torch


@functools.cache
def shares() -> Shares:
    """As they were found when this machine's library was used first."""
    file = built(Tiles.AMX).with_suffix(".json")
    try:
        return Shares.model_validate_json(file.read_text())
    except (OSError, ValidationError):
        found = measured()
    logging.getLogger("diafano").info("engine with AMX, share of torch's time: %s", found)
    with contextlib.suppress(OSError):  # it is measured again the next time
        write_text(file, found.model_dump_json())
    return found


@torch.inference_mode()
def measured() -> Shares:
    """Medians of runs in turn, on maps of 64x64 and 16x16 and tokens of 64x64 and 32x32, two pictures at once."""
    fine, coarse = torch.ones(2, 64 * 64, 320, dtype=torch.bfloat16), torch.ones(2, 32 * 32, 640, dtype=torch.bfloat16)
    maps, deep_maps = (
        torch.ones(2, channels, size, size).to(memory_format=torch.channels_last)
        for channels, size in ((320, 64), (1280, 16))
    )
    with torch.random.fork_rng(devices=()):  # layers draw their weights, and the caller's numbers are not to change
        out, gated = nn.Linear(320, 320).bfloat16(), nn.Linear(640, 5120).bfloat16()
        conv, deep_conv = nn.Conv2d(320, 320, 3, padding=1).bfloat16(), nn.Conv2d(1280, 640, 3, padding=1).bfloat16()
    to_channels_last(conv, deep_conv)

    def linear(by: "Operations") -> None:
        by.linear(fine, out, fine)
        by.geglu(coarse, gated)

    def convolution(by: "Operations") -> None:
        by.convolution(maps, conv, dtype=torch.float32)
        by.convolution(deep_maps, deep_conv)

    def attention(by: "Operations") -> None:
        by.attention(fine, fine, fine, 8)

    return Shares(linear=_share(linear), convolution=_share(convolution), attention=_share(attention))


def _share(work: Callable[["Operations"], None]) -> float:
    times: list[tuple[Operations, list[float]]] = [(by_library, []), (by_torch, [])]
    for _ in range(RUNS + 1):
        for by, taken in times:
            begin = time.perf_counter()
            work(by)
            taken.append(time.perf_counter() - begin)
    library, plain = (statistics.median(taken[1:]) for _, taken in times)  # the first run makes ready
    return library / plain
