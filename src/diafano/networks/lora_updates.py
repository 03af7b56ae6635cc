"""What a LoRA changes one tensor of a model by, in the kinds that files have (LyCORIS, arXiv 2309.14859).

    LowRank      alpha / rank * up @ down                  with a core between them where a convolution has three pieces
    Hadamard     alpha / rank * (a1 @ b1) * (a2 @ b2)      LoHa: products of elements
    Kronecker    scale * kron(w1, w2)                      LoKr
    Difference   the change itself                         of weights, norms and biases
    Decomposed   one of them, then rows or columns are brought to a length of their own (DoRA, arXiv 2402.09353)

All compute in float32. The last depends on the weight that it finds, so updates are applied in the order given.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Update(Protocol):
    """The change of one tensor."""

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to that weight at strength 1, float32. Raises ValueError if it does not fit."""
        ...


@dataclass(frozen=True)
class LowRank:
    """Two thin matrices."""

    down: Tensor
    """(rank, in) or (rank, in, height, width)."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1)."""
    mid: Tensor | None = None
    """LoCon's core of a convolution that is taken apart further: (rank, rank, height, width)."""
    scale: float = 1.0
    """alpha / rank."""

    def delta(self, weight: Tensor) -> Tensor:
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        core = self.mid
        product = up @ down if core is None else torch.einsum("or,rshw,si->oihw", up, core.float(), down)
        return _fitted(self.scale * product, weight)


@dataclass(frozen=True)
class Factor:
    """One of LoHa's two."""

    a: Tensor
    """(out, rank); with a core (rank, out)."""
    b: Tensor
    """(rank, in times the kernel's size); with a core (rank, in)."""
    core: Tensor | None = None
    """(rank, rank, height, width)."""

    def product(self) -> Tensor:
        if self.core is None:
            return self.a.float() @ self.b.float().flatten(1)
        return with_core(self.core, self.a, self.b)


@dataclass(frozen=True)
class Hadamard:
    """LoHa."""

    first: Factor
    second: Factor
    scale: float

    def delta(self, weight: Tensor) -> Tensor:
        return _fitted(self.scale * (self.first.product() * self.second.product()), weight)


@dataclass(frozen=True)
class Kronecker:
    """LoKr; each factor whole, or a pair whose product it is."""

    first: Tensor | tuple[Tensor, Tensor]
    second: Tensor | tuple[Tensor, Tensor]
    core: Tensor | None
    """Between the pair of the second: (rank, rank, height, width)."""
    scale: float

    def delta(self, weight: Tensor) -> Tensor:
        first = _whole(self.first)
        if self.core is not None and isinstance(self.second, tuple):
            second = with_core(self.core, *self.second)
        else:
            second = _whole(self.second)
        first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
        return _fitted(self.scale * torch.kron(first, second.contiguous()), weight)


@dataclass(frozen=True)
class Difference:
    """The trained tensor minus the original."""

    change: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        if self.change.numel() != weight.numel():
            raise ValueError(f"{tuple(self.change.shape)} for {tuple(weight.shape)}")
        return self.change.float().reshape(weight.shape)


@dataclass(frozen=True)
class Decomposed:
    """DoRA."""

    inner: Update
    lengths: Tensor
    """(out, 1, ...) of rows, or (1, in, 1, ...) of columns."""

    def delta(self, weight: Tensor) -> Tensor:
        original = weight.float()
        changed = original + self.inner.delta(weight).to(original.device)
        lengths = self.lengths.float().to(original.device)
        out, *inputs = weight.shape
        if lengths.shape == (out, *[1] * len(inputs)):
            other = tuple(range(1, weight.ndim))
        elif lengths.shape == (1, inputs[0], *[1] * (len(inputs) - 1)):
            other = (0, *range(2, weight.ndim))
        else:
            raise ValueError(f"lengths {tuple(lengths.shape)} for {tuple(weight.shape)}")
        norm = changed.square().sum(other, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        return changed * (lengths / norm) - original


def with_core(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(rank, rank, height, width), (rank, out), (rank, in) -> (out, in, height, width): Tucker's decomposition."""
    return torch.einsum("ijhw,io,jk->okhw", core.float(), a.float(), b.float())


def _whole(factor: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    if isinstance(factor, Tensor):
        return factor.float()
    a, b = factor
    return (a.float() @ b.float().flatten(1)).reshape(len(a), *b.shape[1:])


def _fitted(change: Tensor, weight: Tensor) -> Tensor:
    """In the weight's shape; a convolution of 1x1 and a linear layer are told apart by that alone."""
    if change.numel() != weight.numel() or len(change) != len(weight):
        raise ValueError(f"{tuple(change.shape)} for {tuple(weight.shape)}")
    return change.reshape(weight.shape)
