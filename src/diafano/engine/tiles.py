"""Between pictures and latents whatever their size: as a whole where memory allows, else in tiles.

A tile is a band of rows as wide as the picture; the result is that of the whole picture, see `engine.bands`.
Half-precision networks that give NaN are run again in float32, see `engine.precision`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from diafano.engine import bands
from diafano.engine.fused import accelerated
from diafano.engine.precision import NanGuard
from diafano.errors import UserError, note
from diafano.networks.autoencoder import Autoencoder

MAPS = 10
"""How many maps of the finest level's channels a whole picture takes memory for at a time, as measured."""
LARGEST_WHOLE = 2 * 2**30
"""Bytes beyond which a picture goes through the autoencoder in tiles, unless it is said otherwise."""
DECODED_PIXELS = 512 * 512
"""Most pixels that are decoded at once; a single picture may have more."""
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad allocation", "bad_alloc")
"""How errors say it that have no class of their own: torch's allocator on a CPU, Apple's GPU, Windows, C++."""

Result = TypeVar("Result")


def decode(autoencoder: Autoencoder, latent: Tensor, *, tiles: bool | None = None) -> Iterator[Tensor]:
    """Latents (b, 4, h, w) of unit scale -> pixels (3, height, width) of each, float32, about [-1, 1], not clamped.

    `tiles` says whether in tiles; None: where a whole picture takes much memory, or more than there is. Raises
    UserError where memory is not enough, and for NaN in float32.
    """
    factor = autoencoder.factor
    size = latent.shape[-1] * factor, latent.shape[-2] * factor
    nan_guard, dtype = NanGuard("decoder"), autoencoder.decoder.conv_in.weight.dtype

    def compute(dtype: torch.dtype, part: Tensor) -> Tensor:
        rounded = part.to(dtype)
        whole, in_tiles = partial(autoencoder.decode, rounded), partial(bands.decode, autoencoder, rounded)
        with accelerated(autoencoder):
            return _run("decoded", whole, in_tiles, tiles, size, _bytes(autoencoder, size, rounded))

    for part in latent.split(max(1, DECODED_PIXELS // (size[0] * size[1]))):
        yield from nan_guard(partial(compute, part=part), dtype).float()


def encode(autoencoder: Autoencoder, pixels: Tensor, *, tiles: bool | None = None) -> Tensor:
    """Pixels (b, 3, height, width) in [-1, 1] -> means of the latents (b, 4, h, w) of unit scale, float32.

    On the autoencoder's device. `tiles` and errors as in `decode`.
    """
    weight = autoencoder.encoder.conv_in.weight
    size = pixels.shape[-1], pixels.shape[-2]

    def compute(dtype: torch.dtype) -> Tensor:
        rounded = pixels.to(weight.device, dtype)
        whole, in_tiles = partial(autoencoder.encode, rounded), partial(bands.encode, autoencoder, rounded)
        with accelerated(autoencoder):
            return _run("encoded", whole, in_tiles, tiles, size, _bytes(autoencoder, size, rounded)).mean

    return NanGuard("image encoder")(compute, weight.dtype).float()


def _bytes(autoencoder: Autoencoder, size: tuple[int, int], given: Tensor) -> int:
    """What the maps of whole pictures take; `given` has their number and number format."""
    return MAPS * len(given) * autoencoder.config.widths[0] * size[0] * size[1] * given.element_size()


def _run(
    done: str,
    whole: Callable[[], Result],
    in_tiles: Callable[[], Result],
    tiles: bool | None,
    size: tuple[int, int],
    needed: int,
) -> Result:
    """One of the two, as `tiles` and the memory say; `done` is what the user is told that is done to the picture."""
    picture = f"a picture of {size[0]}x{size[1]}"
    if not tiles and (tiles is False or needed <= LARGEST_WHOLE):
        try:
            return whole()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if tiles is False:
                raise UserError(
                    f"memory is not enough for {picture} to be {done} as a whole: let it be done in tiles"
                ) from None
        # Only here, outside of `except`, is the memory free again that the failed try held.
        note(f"memory was not enough for {picture} to be {done} as a whole: it is {done} in tiles")
    elif tiles is None:
        note(f"{picture} is {done} in tiles: the same picture in less memory")
    try:
        return in_tiles()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    raise UserError(f"memory is not enough for {picture} to be {done}, even in tiles: make it smaller")


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what an error says, which devices and systems say in different ways."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
