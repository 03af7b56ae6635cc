"""Those operations that are mostly products by torch's own, for processors on which these are faster.

`operations` says what they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, layer: nn.Linear | nn.Conv2d, residual: Tensor | None = None) -> Tensor:
    made = F.linear(x, layer.weight.flatten(1), layer.bias)
    return made if residual is None else made.add_(residual)


def geglu(x: Tensor, layer: nn.Linear) -> Tensor:
    value, gate = F.linear(x, layer.weight, layer.bias).chunk(2, dim=-1)
    return value * F.gelu(gate)


def fused_qkv(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    return tuple(linear(x, layer) for layer in layers)


def convolution(
    x: Tensor,
    layer: nn.Conv2d,
    added: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    upsampled: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    x = x.to(layer.weight.dtype, memory_format=torch.channels_last)
    if upsampled:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    made = F.conv2d(x, layer.weight, layer.bias, padding=1).to(dtype)
    if added is not None:
        made += added[:, :, None, None]
    if residual is not None:
        made += residual
    return made


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    split = (tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (query, key, value))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
