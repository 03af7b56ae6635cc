"""The operations that blocks are made of, each by the library or by torch, whichever is faster on this processor.

bfloat16 on the CPU, maps channels_last, tokens (batch, count, width) dense. What only passes over memory is always the
library's.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diafano.engine.choice import faster
from diafano.engine.native_operations import fits, group_norm, joined, layer_norm

__all__ = [
    "attention",
    "convolution",
    "fits",
    "fused_qkv",
    "geglu",
    "group_norm",
    "joined",
    "layer_norm",
    "linear",
    "time_projection",
]


class Operations(Protocol):
    """Those that are mostly products. `native_operations` and `torch_operations` both have all of them."""

    def linear(self, x: Tensor, layer: nn.Linear | nn.Conv2d, residual: Tensor | None = None) -> Tensor:
        """x w^T + bias + residual: (..., in) -> (..., out). A 1x1 convolution is a linear layer of its positions."""

    def geglu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """The first half of the layer's results times the GELU of the second: (..., in) -> (..., out / 2)."""

    def fused_qkv(self, x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """The results of up to three layers of one width that read the same: (..., in) -> (..., out) for each."""

    def convolution(
        self,
        x: Tensor,
        layer: nn.Conv2d,
        added: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        upsampled: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> Tensor:
        """3x3 convolution with its bias: (b, in, h, w) -> (b, out, h, w), in bfloat16 or float32, as is x.

        `added` (b, out) is added at all positions, `residual` (b, out, h, w) at each. With `upsampled`, x gets twice
        its height and width first.
        """

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Multi-head attention of tokens: (b, n, width), (b, m, width) twice -> (b, n, width)."""


def _by_the_faster(name: str, measured: str) -> Callable[..., Any]:
    """That operation, which is as fast as the one that is `measured`; asked for when it is called, not before."""
    return lambda *given, **options: getattr(faster(measured), name)(*given, **options)


_MEASURED = {"linear": "linear", "geglu": "linear", "fused_qkv": "linear"}
_MEASURED |= {"convolution": "convolution", "attention": "attention"}
_fastest = cast(Operations, SimpleNamespace(**{name: _by_the_faster(name, as_) for name, as_ in _MEASURED.items()}))

linear, geglu, fused_qkv = _fastest.linear, _fastest.geglu, _fastest.fused_qkv
convolution, attention = _fastest.convolution, _fastest.attention


def time_projection(layer: nn.Linear, time: Tensor) -> Tensor:
    """The embedded timestep as a residual block adds it: (b, time width) -> (b, channels)."""
    return linear(F.silu(time), layer)
