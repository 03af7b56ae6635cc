"""Upscalers: a picture made larger before it is drawn over, as a latent or in pixels, by A1111's names."""

import re
from dataclasses import dataclass

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diafano.errors import UserError


@dataclass(frozen=True)
class Upscaler:
    """How one of them resizes: latents by torch's `mode`, or pixels by Pillow's `filter`."""

    label: str
    mode: str | None = None
    antialias: bool = False
    filter: Image.Resampling = Image.Resampling.LANCZOS


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


def find_upscaler(name: str) -> Upscaler:
    """The upscaler of that name, however it is written: "Latent (nearest-exact)", "latent-nearest-exact"."""
    upscaler = UPSCALERS.get(re.sub(r"[\W_]+", " ", name.lower()).strip())
    if upscaler is None:
        labels = ", ".join(one.label for one in UPSCALERS.values())
        raise UserError(f"unknown upscaler {name!r}: use one of {labels}")
    return upscaler


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
