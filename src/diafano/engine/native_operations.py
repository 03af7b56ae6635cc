"""The operations by the library; `operations` says what they are.

bfloat16 on the CPU, maps channels_last, tokens (batch, count, width) dense.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from diafano.engine.build import library

_long = ctypes.c_long


def fits(*tensors: Tensor) -> bool:
    """Whether the library can compute with these inputs and weights; it knows no gradients."""
    return all(x.dtype == torch.bfloat16 and x.is_cpu for x in tensors) and not (
        torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    )


def linear(x: Tensor, layer: nn.Linear | nn.Conv2d, residual: Tensor | None = None) -> Tensor:
    return _linear(x, layer, residual, gate=False)


def geglu(x: Tensor, layer: nn.Linear) -> Tensor:
    return _linear(x, layer, None, gate=True)


def fused_qkv(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    columns = layers[0].weight.shape[0]
    if len({layer.weight.shape for layer in layers}) > 1 or columns % 16 or layers[0].bias is not None:
        return tuple(linear(x, layer) for layer in layers)
    x = x.contiguous()
    width, weights = x.shape[-1], [_dense(layer.weight) for layer in layers]
    y = x.new_empty(*x.shape[:-1], len(layers) * columns)
    three = [*weights, None, None][:3]
    sizes = x.numel() // width, len(layers) * columns, width, columns
    _call("linear", x, *three, None, None, y, *sizes, False)
    return y.chunk(len(layers), dim=-1)


def _linear(x: Tensor, layer: nn.Linear | nn.Conv2d, residual: Tensor | None, *, gate: bool) -> Tensor:
    x = x.contiguous()
    width, columns = layer.weight.shape[1], layer.weight.shape[0]
    y = x.new_empty(*x.shape[:-1], columns // 2 if gate else columns)
    residual = None if residual is None else residual.contiguous()
    sizes = x.numel() // width, columns, width, columns
    _call("linear", x, _dense(layer.weight), None, None, layer.bias, residual, y, *sizes, gate)
    return y


def convolution(
    x: Tensor,
    layer: nn.Conv2d,
    added: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    upsampled: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    x = _channels_last(x)
    if dtype == torch.float32 or not upsampled:
        x = x.float()  # as blocks give it; the library has bfloat16 to bfloat16 for maps that are repeated
    batch, channels, height, width = x.shape
    if upsampled:
        height, width = 2 * height, 2 * width
    out = layer.out_channels
    bias = None if layer.bias is None else layer.bias.float()
    if added is not None:
        bias = added.float() if bias is None else bias + added.float()
        bias = bias.contiguous()
    step = out if added is not None else 0
    residual = None if residual is None else _channels_last(residual)
    y = torch.empty(batch, out, height, width, dtype=dtype, memory_format=torch.channels_last)
    weight = _channels_last(layer.weight)
    floats = x.dtype == torch.float32, dtype == torch.float32
    _call("convolution", x, weight, bias, step, residual, y, batch, height, width, channels, out, upsampled, *floats)
    return y


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    batch, count, width = query.shape
    query, key, value = _rows(query), _rows(key), _rows(value)
    if key.stride(1) != value.stride(1):
        key, value = key.contiguous(), value.contiguous()
    y = query.new_empty(batch, count, width)
    head, scale = width // heads, ctypes.c_float((width // heads) ** -0.5)
    steps = query.stride(1), key.stride(1)
    _call("attention", query, key, value, y, batch, heads, count, key.shape[1], head, *steps, scale)
    return y


def group_norm(x: Tensor, norm: nn.GroupNorm, *, silu: bool, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Group norm of maps (b, c, h, w), and SiLU after it if asked for, to bfloat16 or float32, as is x."""
    x = _channels_last(x)
    batch, channels, height, width = x.shape
    y = torch.empty_like(x, dtype=dtype)
    numbers = batch, height * width, channels, norm.num_groups, ctypes.c_float(norm.eps)
    floats = x.dtype == torch.float32, dtype == torch.float32
    _call("group_norm", x, norm.weight, norm.bias, y, *numbers, silu, *floats)
    return y


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm over the last dimension."""
    x = x.contiguous()
    y = torch.empty_like(x)
    width = x.shape[-1]
    _call("layer_norm", x, norm.weight, norm.bias, y, x.numel() // width, width, ctypes.c_float(norm.eps))
    return y


def joined(x: Tensor, other: Tensor) -> Tensor:
    """The channels of two maps, one after the other: (b, c, h, w), (b, d, h, w) -> (b, c + d, h, w)."""
    x, other = _channels_last(x), _channels_last(other)
    batch, channels, height, width = x.shape
    size = (batch, channels + other.shape[1], height, width)
    y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    _call("join", x, other, y, batch * height * width, channels, other.shape[1])
    return y


def _call(name: str, *arguments: Any) -> None:
    loaded = library()
    assert loaded is not None
    loaded.diafano_threads(torch.get_num_threads())
    getattr(loaded, f"diafano_{name}")(*map(_passed, arguments))  # which ctypes keeps, unlike what [] gives


def _passed(argument: Any) -> Any:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, bool):
        return ctypes.c_int(argument)
    return _long(argument) if isinstance(argument, int) else argument


def _dense(weight: Tensor) -> Tensor:
    """A linear layer's weight, or a 1x1 convolution's, whose values lie the same way in either memory format."""
    return weight if weight.dim() == 2 and weight.is_contiguous() else weight.flatten(1).contiguous()


def _rows(x: Tensor) -> Tensor:
    """Tokens whose rows lie at one distance from each other, as `fused_qkv` gives them."""
    batch, count, width = x.shape
    step = x.stride(1)
    dense = x.stride(2) == 1 and step >= width and (batch == 1 or x.stride(0) == count * step)
    return x if dense else x.contiguous()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
