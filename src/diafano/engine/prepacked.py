"""Small float32 networks on a CPU: each layer's weight brought once a run into the order that its product reads it in.

torch's convolutions do that anew in each call, by passes for which the other cores' threads are woken. Where the layers
are as small as the embedded model's, it takes as long as the arithmetic. What is computed stays the same, up to the
order of a sum.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diafano.networks.replaced import Forward, replaced_forwards
from diafano.networks.tileable import wrapped_axes

LARGEST = 50_000_000
"""Parameters of a network; beyond, the arithmetic takes so long that a second copy of the weights is not worth it."""

# oneDNN's operations on weights in its own order, as torch's compiler calls them.
OPERATIONS = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_linear_weight",
    "_linear_pointwise",
)


def available() -> bool:
    """Whether this torch has oneDNN and its operations."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in OPERATIONS)


@contextmanager
def prepacked(*networks: nn.Module) -> Iterator[None]:
    """Inside, convolutions and linear layers of small float32 networks on the CPU compute with packed weights.

    A layer packs its weight when it is first called, again where the input's shape or the weight's place in memory is
    another, and lets go of it at the end. Inside, weights are not to be changed where they lie. A layer computes
    plainly where gradients are wanted or the input is of another kind; layers in a compiled network always do.
    """
    there = not any(wrapped_axes()) and available()
    small = [network for network in networks if there and is_small(network) and network._compiled_call_impl is None]
    with replaced_forwards(pair for network in small for layer in network.modules() for pair in _packed(layer)):
        yield


def is_small(network: nn.Module) -> bool:
    return sum(weight.numel() for weight in network.parameters()) <= LARGEST


def _packed(layer: nn.Module) -> Iterator[tuple[nn.Module, Forward]]:
    """The layer and its packed computation, if it is one that can be packed."""
    if not all(_fits(weight) for weight in layer.parameters(recurse=False)):
        return
    if type(layer) is nn.Linear:
        yield layer, _linear(layer)
    elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        yield layer, _convolution(layer)


def _fits(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_cpu and x.layout == torch.strided


def _usable(x: Tensor) -> bool:
    return _fits(x) and x.numel() > 0 and not torch.is_grad_enabled()


Kept = tuple[torch.Size, int, Tensor]
"""The input's shape, the weight's address, the packed weight."""


def _linear(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    kept: Kept | None = None

    def forward(x: Tensor) -> Tensor:
        nonlocal kept
        if not _usable(x):
            return nn.Linear.forward(layer, x)
        now = kept
        if now is None or now[:2] != (x.shape, layer.weight.data_ptr()):
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight, x.numel() // x.shape[-1])
            now = kept = x.shape, layer.weight.data_ptr(), weight
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, now[2], layer.bias, "none", [], "")
        return result

    return forward


def _convolution(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    padding, stride, dilation = (list(map(int, edges)) for edges in (layer.padding, layer.stride, layer.dilation))
    how = padding, stride, dilation, layer.groups
    kept: Kept | None = None

    def forward(x: Tensor) -> Tensor:
        nonlocal kept
        if not _usable(x) or x.ndim != 4:
            return nn.Conv2d.forward(layer, x)
        now = kept
        if now is None or now[:2] != (x.shape, layer.weight.data_ptr()):
            weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight, *how, list(x.shape))
            now = kept = x.shape, layer.weight.data_ptr(), weight
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, now[2], layer.bias, *how, "none", [], "")
        return result

    return forward
