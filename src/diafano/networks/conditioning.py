"""Conditioning: what a denoising network is told beside the noisy latent and its noise level; a row a picture.

Stable Diffusion 1 and 2 are told the text's tokens alone. What later families are told besides has its place here, so
that guidance, samplers, controls and caches hand on one thing, whatever is in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, Union

import torch
from torch import Tensor

from diafano.errors import UserError


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Tensors whose first dimension is the batch; what is None is not told."""

    tokens: Tensor
    """(b, n, width): the text, one embedding a token."""
    pooled: Tensor | None = None
    """(b, width): the whole text as one embedding (SDXL, SD3, Flux)."""
    numbers: Tensor | None = None
    """(b, count), float32 whatever the network computes in: sizes and scores (SDXL: 6; its refiner: 5)."""
    mask: Tensor | None = None
    """(b, n), bool: which tokens count; None: all."""
    guidance: Tensor | None = None
    """(b,), float32: the strength of guidance that a distilled network is told (Flux dev)."""
    copies: int = 1
    """So many equal batches of latents lie behind one another in the batch, each with texts of its own: guidance asks
    for the same latents with and without the prompt at once. What reads no text may be computed for one of them."""
    _cast: "dict[torch.dtype, Conditioning]" = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, given: "Conditioning | Tensor") -> "Conditioning":
        """Tokens alone may be given as a bare tensor (b, n, width)."""
        return given if isinstance(given, Conditioning) else cls(given)

    @classmethod
    def cat(cls, rows: Sequence["Conditioning"], copies: int = 1) -> "Conditioning":
        """All batches behind one another. Raises UserError where they do not have the same number of tokens, ..."""
        first = rows[0]
        for one in rows[1:]:
            if one.shapes != first.shapes:
                raise UserError(
                    f"texts of the shapes {first.shapes} and {one.shapes} do not fit in one batch: give them the same"
                    " number of tokens"
                )
        tensors = {name: torch.cat([getattr(one, name) for one in rows]) for name in first._told}
        return cls(**tensors, copies=copies)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What is told, and its shape without the batch."""
        return {name: tuple(getattr(self, name).shape[1:]) for name in self._told}

    @property
    def _told(self) -> list[str]:
        return [one.name for one in fields(self) if isinstance(getattr(self, one.name), Tensor)]

    def __len__(self) -> int:
        """Rows of the batch."""
        return len(self.tokens)

    def to(self, dtype: torch.dtype) -> "Conditioning":
        """Tokens and pooled text in the network's number format.

        The same object at each call: what an engine has made of the text once (keys, values) it finds again by it.
        """
        if self.tokens.dtype == dtype and (self.pooled is None or self.pooled.dtype == dtype):
            return self
        if dtype not in self._cast:
            pooled = None if self.pooled is None else self.pooled.to(dtype)
            self._cast[dtype] = replace(self, tokens=self.tokens.to(dtype), pooled=pooled)
        return self._cast[dtype]

    def expand(self, batch: int) -> "Conditioning":
        """One row for each of so many pictures."""
        if len(self) == batch:
            return self
        return self._each(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def __getitem__(self, rows: slice) -> "Conditioning":
        """Those rows."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        return Conditioning(**{name: change(getattr(self, name)) for name in self._told}, copies=self.copies)


Told = Union[Conditioning, Tensor]  # noqa: UP007 (read at run time too)


class Network(Protocol):
    """A UNet, and whatever else predicts; or one with controls or a cache around it."""

    def __call__(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning, /) -> Tensor:
        """(b, channels, h, w), (b,) float, conditioning of b rows -> (b, channels, h, w)."""
        ...
