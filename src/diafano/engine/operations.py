"""The operations that blocks are made of, each by the library or by torch, whichever is faster on this processor.

bfloat16 on the CPU, maps channels_last, tokens (batch, count, width) dense. What only passes over memory is always the
library's.
"""

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


def linear(x: Tensor, layer: nn.Linear | nn.Conv2d, residual: Tensor | None = None) -> Tensor:
    """x w^T + bias + residual: (..., in) -> (..., out). A 1x1 convolution is a linear layer of its positions."""
    made: Tensor = faster("linear").linear(x, layer, residual)
    return made


def geglu(x: Tensor, layer: nn.Linear) -> Tensor:
    """The first half of the layer's results times the GELU of the second: (..., in) -> (..., out / 2)."""
    made: Tensor = faster("linear").geglu(x, layer)
    return made


def fused_qkv(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The results of up to three layers of one width that read the same: (..., in) -> (..., out) for each."""
    made: tuple[Tensor, ...] = faster("linear").fused_qkv(x, *layers)
    return made


def convolution(
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
    made: Tensor = faster("convolution").convolution(x, layer, added, residual, upsampled=upsampled, dtype=dtype)
    return made


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of tokens: (b, n, width), (b, m, width) twice -> (b, n, width)."""
    made: Tensor = faster("attention").attention(query, key, value, heads)
    return made


def time_projection(layer: nn.Linear, time: Tensor) -> Tensor:
    """The embedded timestep as a residual block adds it: (b, time width) -> (b, channels)."""
    return linear(F.silu(time), layer)
