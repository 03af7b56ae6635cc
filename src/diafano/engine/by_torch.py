"""The operations of `by_library` that are mostly products, by torch's own: for processors on which those are faster."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, layer: nn.Linear | nn.Conv2d, residual: Tensor | None = None) -> Tensor:
    """x w^T + bias + residual: (..., in) -> (..., out). A 1x1 convolution is a linear layer of its positions."""
    made = F.linear(x, layer.weight.flatten(1), layer.bias)
    return made if residual is None else made.add_(residual)


def geglu(x: Tensor, layer: nn.Linear) -> Tensor:
    """The first half of the layer's results times the GELU of the second: (..., in) -> (..., out / 2)."""
    value, gate = F.linear(x, layer.weight, layer.bias).chunk(2, dim=-1)
    return value * F.gelu(gate)


def linears(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The results of layers that read the same: (..., in) -> (..., out) for each."""
    return tuple(linear(x, layer) for layer in layers)


def convolution(
    x: Tensor,
    layer: nn.Conv2d,
    added: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    twice: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """3x3 convolution with its bias: (b, in, h, w) -> (b, out, h, w), in bfloat16 or float32, as is x.

    `added` (b, out) is added at all positions, `residual` (b, out, h, w) at each. With `twice`, x is repeated to twice
    its height and width first.
    """
    x = x.to(layer.weight.dtype, memory_format=torch.channels_last)
    if twice:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    made = F.conv2d(x, layer.weight, layer.bias, padding=1).to(dtype)
    if added is not None:
        made += added[:, :, None, None]
    if residual is not None:
        made += residual
    return made


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of tokens: (b, n, width), (b, m, width) twice -> (b, n, width)."""
    split = (tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (query, key, value))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
