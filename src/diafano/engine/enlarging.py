"""Pictures made larger by a network, whatever their size: stage by stage in bands of rows, very large ones in windows.

bands      Each stage of the network is computed for some rows at a time, given as many rows above and below as it
           sees. Nothing is blended and nothing lost: the numbers are the whole picture's, up to rounding.
windows    Where even the maps between the stages are too large, the picture is cut into squares that are each
           given `OVERLAP` pixels around them, and fade into each other. A network that sees no further gives the
           whole picture's numbers again; in deeper ones what lies beyond changes less than can be seen.
"""

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diafano.engine.precision import NanGuard
from diafano.engine.tiles import is_out_of_memory
from diafano.errors import UserError, note
from diafano.networks.enlarging import EnlargingNetwork, Layers

Values = NDArray[np.float32]

BAND_VALUES = 2**24
"""About so many values of each map are computed at a time, if it has `CHANNELS` of them."""
CHANNELS = 64
LARGEST_WHOLE = 2 * 2**30
"""Bytes of maps beyond which a picture is cut into windows, unless it is said otherwise."""
WINDOWS = (1024, 256)
"""Edges of windows, in pixels of the picture as it is, that are tried where nobody says one."""
SMALLEST_WINDOW = 64
FADE = 16
"""Half of how wide neighbouring windows fade into each other, in pixels of the picture as it is."""
OVERLAP = 48
"""Pixels beyond that which a window sees, at most: a network may see hundreds, but hardly heeds them."""


def check_tile(tile: int | None) -> None:
    if tile is not None and tile < SMALLEST_WINDOW:
        raise UserError(f"tiles of {tile} pixels are not possible: give a whole number from {SMALLEST_WINDOW} on")


@torch.inference_mode()
def enlarged(
    network: EnlargingNetwork,
    picture: Values,
    *,
    tile: int | None = None,
    on_tile: Callable[[int, int], object] | None = None,
) -> Values:
    """Values (height, width, channels) in [0, 1] -> (scale * height, scale * width, channels), clamped to [0, 1].

    `tile` is the edge of windows in pixels of the picture as it is, from 64 on; None: as a whole, unless that takes
    more than `LARGEST_WHOLE` bytes, or more memory than there is. `on_tile` is called with how many windows are done
    and how many there are. Raises UserError where memory is not enough, and for NaN.
    """
    check_tile(tile)
    height, width, _ = picture.shape
    size = f"a picture of {width}x{height}"
    needed = network.maps * height * width * next(network.parameters()).element_size()
    edges = [tile] if tile is not None else [*([max(height, width)] if needed <= LARGEST_WHOLE else []), *WINDOWS]
    for attempt, edge in enumerate(edges):
        if attempt:
            note(f"memory was not enough for {size} to be made larger at once: it is done in tiles of {edge} pixels")
        try:
            return _in_windows(network, picture, edge, on_tile)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    raise UserError(f"memory is not enough for {size} to be made larger: make it smaller, or give a smaller tile")


def banded(layers: Layers, x: Tensor, margin: int, factor: int, /, *, values: int = BAND_VALUES) -> Tensor:
    """A stage of a network on a map (1, c, h, w) -> (1, d, factor * h, factor * w), some rows at a time."""
    height, width = x.shape[-2:]
    rows = max(1, values // (CHANNELS * factor**2 * width) - 2 * margin)
    if height <= rows + 2 * margin:
        return layers(x)
    made: Tensor | None = None
    for first, end in pairwise([*range(0, height, rows), height]):
        above, below = max(0, first - margin), min(height, end + margin)
        band = layers(x[..., above:below, :])[..., (first - above) * factor : (end - above) * factor, :]
        if made is None:
            made = band.new_empty(*band.shape[:2], height * factor, band.shape[3])
        made[..., first * factor : end * factor, :] = band
    assert made is not None
    return made


def _in_windows(
    network: EnlargingNetwork, picture: Values, edge: int, on_tile: Callable[[int, int], object] | None
) -> Values:
    """The picture, window by window of that edge: from left to right, and from the top down."""
    height, width, channels = picture.shape
    multiple, scale = network.multiple, network.scale
    edge = -(-edge // multiple) * multiple
    fade = -(-FADE // multiple) * multiple
    seen = fade + -(-min(OVERLAP, network.radius) // multiple) * multiple
    corners = list(product(range(0, height, edge), range(0, width, edge)))
    if len(corners) == 1:
        made = _computed(network, picture)
        if on_tile is not None:
            on_tile(1, 1)
        return made
    made = np.zeros((height * scale, width * scale, channels), np.float32)
    for done, (top, left) in enumerate(corners, start=1):
        above, before = max(0, top - seen), max(0, left - seen)
        window = _computed(network, picture[above : top + edge + seen, before : left + edge + seen])
        first_row, first_column = max(0, top - fade), max(0, left - fade)
        kept = window[
            (first_row - above) * scale : (top + edge + fade - above) * scale,
            (first_column - before) * scale : (left + edge + fade - before) * scale,
        ]
        # What is there already lies below: it fades out over the part that both have.
        shares = [np.ones(length, np.float32) for length in kept.shape[:2]]
        for share, start in zip(shares, (top, left), strict=True):
            if start:
                ramp = (np.arange(2 * fade * scale, dtype=np.float32) + 0.5) / (2 * fade * scale)
                share[: len(ramp)] = ramp[: len(share)]
        share = (shares[0][:, None] * shares[1][None])[..., None]
        row, column = first_row * scale, first_column * scale
        place = made[row : row + kept.shape[0], column : column + kept.shape[1]]
        np.copyto(place, np.where(share < 1, place * (1 - share) + kept * share, kept))
        if on_tile is not None:
            on_tile(done, len(corners))
    return made


def _computed(network: EnlargingNetwork, picture: Values) -> Values:
    """One window as a whole, its edges repeated where the network wants a multiple of some pixels."""
    height, width, channels = picture.shape
    weight = next(network.parameters())
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    if network.picture_channels == 1:
        pixels = pixels.mean(1, keepdim=True)
    missing = [-edge % network.multiple for edge in (height, width)]
    if any(missing):
        pixels = F.pad(pixels, (0, missing[1], 0, missing[0]), mode="replicate")

    def compute(dtype: torch.dtype) -> Tensor:
        given = pixels.to(weight.device, dtype).contiguous(memory_format=torch.channels_last)
        return network.by_stages(given, banded)

    made = NanGuard("upscaler")(compute, weight.dtype)
    made = made[0, :, : height * network.scale, : width * network.scale].float().clamp_(0, 1).cpu()
    values: Values = made.permute(1, 2, 0).expand(-1, -1, channels).numpy()
    return values
