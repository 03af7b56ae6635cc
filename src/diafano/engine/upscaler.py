"""Upscalers that are networks: whole pictures of any kind, at any scale."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from diafano.engine.enlarging import Values, check_tile, enlarged
from diafano.networks.enlarging import EnlargingNetwork
from diafano.pictures.upscaling import OnTile, Upscaler
from diafano.pictures.values import PictureValues, values_of

MOST_TIMES = 3
"""How often a network is applied to reach a scale beyond its own, as in A1111; the rest is done by Lanczos."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkUpscaler(Upscaler):
    """A network that makes pictures larger; `diafano.load_upscaler` reads one from a file.

    `upscale` applies it, again where that is not enough, and resizes the result by Lanczos to the size that was asked
    for.
    """

    network: EnlargingNetwork
    hash: str = ""
    """The first digits of its file's SHA-256."""

    @property
    def scale(self) -> int:
        return self.network.scale

    def _enlarged(
        self, picture: Image.Image, size: tuple[int, int], tile: int | None, on_tile: OnTile | None
    ) -> Image.Image:
        check_tile(tile)
        values = values_of(picture)
        parts = [part for part in (values.colours, values.alpha) if part is not None]
        times = self._times(picture.size, size)
        made = []
        for number, part in enumerate(parts):
            progress = None if on_tile is None else _shared(on_tile, number * times, len(parts) * times)
            made.append(self._at_size(part, size, tile, progress))
        colours, alpha = made if len(made) == 2 else (made[0], None)
        return PictureValues(colours, alpha, values.mode).picture()

    def _times(self, size: tuple[int, int], wanted: tuple[int, int]) -> int:
        """How often it is applied: until the picture covers the size, but at least once, as a network also mends."""
        times, scale = 1, self.scale
        while times < MOST_TIMES and scale > 1 and (size[0] * scale < wanted[0] or size[1] * scale < wanted[1]):
            times, scale = times + 1, scale * self.scale
        return times

    def _at_size(
        self, values: Values, size: tuple[int, int], tile: int | None, progress: Callable[[int], OnTile] | None
    ) -> Values:
        if values.min() == values.max():  # such as the transparency of a picture that has none
            return np.full((size[1], size[0], values.shape[2]), values.flat[0], np.float32)
        for number in range(self._times((values.shape[1], values.shape[0]), size)):
            values = enlarged(self.network, values, tile=tile, on_tile=None if progress is None else progress(number))
        if values.shape[1::-1] == size:
            return values
        channels = [Image.fromarray(values[..., channel]) for channel in range(values.shape[2])]
        resized = [np.asarray(one.resize(size, Image.Resampling.LANCZOS)) for one in channels]
        return np.stack(resized, axis=-1).clip(0, 1)


def _shared(on_tile: OnTile, before: int, runs: int) -> Callable[[int], OnTile]:
    """For the run of a number: `on_tile` as of one that has all runs' tiles, of which some runs are done before it."""

    def told(number: int, done: int, tiles: int) -> None:
        on_tile((before + number) * tiles + done, runs * tiles)

    return lambda number: partial(told, number)
