"""Latents of all examples, computed once: drawn, encoded, forgotten but for the latents, which are kept in files."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diafano.checkpoints.writing import save_tensors
from diafano.errors import UserError, note
from diafano.files import refusal
from diafano.networks.autoencoder import Autoencoder
from diafano.training.examples import to_pixels
from diafano.training.feed import Source, Wanted, in_order, make
from diafano.training.recipe import DataRecipe

IN_A_FILE = 2048
"""Examples whose latents lie in one file: what an interrupted run loses at most."""
AT_ONCE = 32
LOOKED_AT = 64
"""Examples whose pixels tell this source from another."""


class Latents:
    """Mean latents (count, channels, h, w), float16, on the CPU, of the examples that one autoencoder encodes."""

    def __init__(self, autoencoder: Autoencoder, recipe: DataRecipe, cache: Path, device: torch.device) -> None:
        self.autoencoder, self.recipe, self.cache, self.device = autoencoder, recipe, cache, device

    def of(self, source: Source, count: int) -> Tensor:
        """The latents of the source's first `count` examples."""
        seen = make(source, Wanted(np.arange(min(LOOKED_AT, count)))).pixels
        name = f"latents-{fingerprint(self.autoencoder, seen)}"
        parts = []
        for first in range(0, count, IN_A_FILE):
            numbers = range(first, min(first + IN_A_FILE, count))
            path = self.cache / f"{name}-{first}-{numbers.stop}.safetensors"
            parts.append(kept("latents", path, partial(self._encoded, source, numbers)))
        return torch.cat(parts)

    @torch.no_grad()
    def _encoded(self, source: Source, numbers: range) -> Tensor:
        made = in_order(source, numbers, AT_ONCE, self.recipe.processes)
        means = [self.autoencoder.encode(to_pixels(batch.pixels, self.device)).mean.half().cpu() for batch in made]
        return torch.cat(means).contiguous()


def fingerprint(network: nn.Module, data: NDArray[np.generic]) -> str:
    """Changes with the network's weights or the data, so that a cache is never another run's."""
    digest = hashlib.sha256(np.ascontiguousarray(data).data)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def kept(name: str, path: Path, make: Callable[[], Tensor]) -> Tensor:
    """The tensor that is kept in a file; made, and kept there, where the file is missing or broken.

    Raises UserError where it cannot be written.
    """
    try:
        return load_file(path)[name]
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError) as error:
        note(f"{path} is broken ({error}): it is made again")
    except OSError as error:
        raise UserError(refusal(error, path)) from error
    tensor = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({name: tensor}, path)
    except OSError as error:
        raise UserError(f"cannot write: {refusal(error, path)}") from error
    return tensor
