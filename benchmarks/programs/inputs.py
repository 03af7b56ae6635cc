"""The tensors that every program is given."""

import torch
from torch import Tensor

from . import SEED


def latent(size: int, batch: int) -> Tensor:
    """Unit-normal noise (batch, 4, size/8, size/8)."""
    return torch.randn(batch, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(SEED))


def pixels(size: int, batch: int) -> Tensor:
    """(batch, 3, size, size), -1 to 1."""
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(SEED)) * 2 - 1


def text_embeddings(batch: int) -> Tensor:
    """Of both texts of each picture: (2 * batch, 77, 768)."""
    return torch.randn(2 * batch, 77, 768, generator=torch.Generator().manual_seed(SEED))
