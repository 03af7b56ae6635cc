"""Variations: a picture's start noise, led part of the way to that of another seed (A1111's variation seed).

The pictures of one request are then variations of one picture: its seed stays, and the second seed counts on.
"""

import torch
from torch import Tensor

from diafano.noise.schedule import NoiseSource

PARALLEL = 0.9995
"""A mean cosine above which the two noises count as one direction."""


def slerp(share: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation of two noises (..., height, width), from `low` at 0 to `high` at 1.

    ``sin((1 - share) angle) / sin(angle) * low + sin(share angle) / sin(angle) * high``, with an angle for each column
    of each channel, as in A1111's rng.py: other than a straight mixture it keeps the variance that noise must have.
    """
    cosine = (_direction(low) * _direction(high)).sum(dim=-2, keepdim=True)
    if cosine.mean() > PARALLEL:
        return (1.0 - share) * low + share * high
    angle = torch.acos(cosine)
    towards = torch.sin(torch.stack([(1.0 - share) * angle, share * angle])) / torch.sin(angle)
    return towards[0] * low + towards[1] * high


def varied(source: NoiseSource, other: NoiseSource, strength: float) -> NoiseSource:
    """`source` (batch, 4, h, w), whose first noise is led to that of `other` by `strength`, picture by picture."""
    firsts = iter([other])

    def noise() -> Tensor:
        own = source()
        for towards in firsts:
            high = towards()
            pairs = zip(own.expand_as(high), high, strict=True)
            return torch.stack([slerp(strength, low, high) for low, high in pairs])
        return own

    return noise


def _direction(noise: Tensor) -> Tensor:
    length: Tensor = noise.norm(dim=-2, keepdim=True)
    return noise / length
