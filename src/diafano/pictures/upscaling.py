"""Upscalers: a picture made larger, as a latent or in pixels, by A1111's names. Those that are networks are in
`engine.upscaler`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diafano.errors import UserError
from diafano.pictures.infotext import with_upscaling
from diafano.pictures.metadata import PARAMETERS, with_parameters
from diafano.pictures.values import MOST_16, plain_mode

OnTile = Callable[[int, int], object]
"""Is called with how many tiles of a picture are done, and how many there are."""
LARGEST_SCALE = 64.0
KEPT = ("icc_profile",)
"""What of a picture's notes is true of the larger one, too, besides its settings."""


@dataclass(frozen=True)
class Upscaler:
    """How one of them resizes: latents by torch's `mode`, or pixels by Pillow's `filter`."""

    label: str
    """As A1111 calls it, and pictures record it."""
    mode: str | None = None
    antialias: bool = False
    filter: Image.Resampling = Image.Resampling.LANCZOS

    @property
    def scale(self) -> int:
        """How many times larger it makes a picture where nobody says how large it is to be."""
        return 2

    def upscale(
        self,
        picture: Image.Image,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        on_tile: OnTile | None = None,
    ) -> Image.Image:
        """The picture `scale` times larger (None: as many times as the upscaler's own `scale`), or of that `size`.

        Any of Pillow's modes: grey stays grey, 16 bits of grey stay, a palette becomes its colours, and transparency
        is made larger apart from them. `size` is (width, height) in pixels, of any shape. The picture keeps its
        settings (``info["parameters"]``), which say by how much and by what it was made larger, unless `size` does.
        `tile` is the edge, from 64 pixels of the picture on, of the tiles that a network works
        in; None: where a whole picture takes more than 2 GiB. Raises UserError for what cannot be done.
        """
        self.check_pictures()
        factor = None if size is not None else float(self.scale if scale is None else scale)
        size = self.size_of(picture.size, scale) if size is None else size
        if min(size) < 1:
            raise UserError(f"a picture cannot be made {size[0]}x{size[1]}: width and height are at least 1")
        made = self._enlarged(plain_mode(picture), size, tile, on_tile)
        made.info |= {key: picture.info[key] for key in KEPT if key in picture.info}
        text = picture.info.get(PARAMETERS)
        if not isinstance(text, str):
            return made
        return with_parameters(made, text if factor is None else with_upscaling(text, factor, self.label))

    def check_pictures(self) -> None:
        """Raise UserError unless it makes pictures larger."""
        if self.mode is not None:
            raise UserError(
                f"{self.label} makes latents larger, not pictures: use Lanczos, Nearest or a network's file"
            )

    def size_of(self, size: tuple[int, int], scale: float | None) -> tuple[int, int]:
        """(width, height) of a picture of that size, `scale` times larger (None: the upscaler's own), rounded."""
        factor = self.scale if scale is None else scale
        if not 0 < factor <= LARGEST_SCALE:
            raise UserError(f"scale {factor:g} is not possible: give a number above 0, up to {LARGEST_SCALE:g}")
        width, height = (max(1, round(edge * factor)) for edge in size)
        return width, height

    def _enlarged(
        self, picture: Image.Image, size: tuple[int, int], tile: int | None, on_tile: OnTile | None
    ) -> Image.Image:
        return resized(picture, size, self.filter)


UPSCALERS = {
    re.sub(r"\W+", " ", upscaler.label.lower()).strip(): upscaler
    for upscaler in (
        Upscaler("Latent", "bilinear"),
        Upscaler("Latent (antialiased)", "bilinear", antialias=True),
        Upscaler("Latent (bicubic)", "bicubic"),
        Upscaler("Latent (bicubic antialiased)", "bicubic", antialias=True),
        Upscaler("Latent (nearest)", "nearest"),
        Upscaler("Latent (nearest-exact)", "nearest-exact"),
        Upscaler("Lanczos"),
        Upscaler("Nearest", filter=Image.Resampling.NEAREST),
    )
}
"""By their labels in small letters, without brackets and dashes."""


FindUpscaler = Callable[[str], Upscaler]
"""The upscaler of a name. Raises UserError where there is none."""


def key_of(name: str) -> str:
    """The name of an upscaler without what is written in more than one way: case, dashes, brackets."""
    return re.sub(r"[\W_]+", " ", name.lower()).strip()


def in_table(name: str) -> bool:
    """Whether an upscaler of that name is none of those that are networks."""
    return key_of(name) in UPSCALERS


def find_upscaler(name: str) -> Upscaler:
    """The upscaler of that name, however it is written: "Latent (nearest-exact)", "latent-nearest-exact"."""
    upscaler = UPSCALERS.get(key_of(name))
    if upscaler is None:
        labels = ", ".join(one.label for one in UPSCALERS.values())
        raise UserError(f"unknown upscaler {name!r}: use one of {labels}, or give a file of that name")
    return upscaler


def resized(picture: Image.Image, size: tuple[int, int], filter: Image.Resampling) -> Image.Image:
    """The picture at that size; colours are weighted with their transparency, and 16 bits of grey stay 16 bits."""
    if not picture.mode.startswith("I") or picture.size == size:
        return picture.resize(size, filter)
    grey = np.asarray(Image.fromarray(np.asarray(picture).astype(np.float32)).resize(size, filter))
    return Image.fromarray(np.rint(grey).clip(0, MOST_16).astype(np.uint16))


def covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the shape of `size`, rounded down, that covers the target (A1111's "hires resize")."""
    width, height = size
    if width * target[1] < target[0] * height:
        return target[0], target[0] * height // width
    return target[1] * width // height, target[1]


def upscaled_latent(latent: Tensor, upscaler: Upscaler, size: tuple[int, int]) -> Tensor:
    """(batch, 4, h, w) -> (batch, 4, height, width) of `size` (width, height), in latent positions."""
    assert upscaler.mode is not None
    return F.interpolate(latent, size[::-1], mode=upscaler.mode, antialias=upscaler.antialias)


def cut_out(latent: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of the latent, (batch, 4, height, width) of `size` (width, height)."""
    left, top = (latent.shape[-1] - size[0]) // 2, (latent.shape[-2] - size[1]) // 2
    return latent[..., top : top + size[1], left : left + size[0]]
