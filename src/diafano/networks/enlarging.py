"""What networks that make pictures larger have in common: stages that each see only so far.

Whoever runs the stages may compute each as a whole, or in parts with a margin (`engine.enlarging`).
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

Layers = Callable[[Tensor], Tensor]


class RunStage(Protocol):
    """Some layers on a map (b, c, h, w) -> (b, d, factor * h, factor * w); none of them sees further than `margin`."""

    def __call__(self, layers: Layers, x: Tensor, margin: int, factor: int, /) -> Tensor: ...


def whole(layers: Layers, x: Tensor, margin: int, factor: int, /) -> Tensor:
    """The stage as it is."""
    return layers(x)


class EnlargingNetwork(nn.Module):
    """Pixels (b, 3, h, w) in [0, 1] -> (b, 3, scale * h, scale * w), about [0, 1], not clamped."""

    scale: int
    """How many times larger the picture becomes."""
    multiple: int = 1
    """What height and width must be multiples of."""
    picture_channels: int
    maps: int
    """How many values for each pixel are in memory between stages, at most."""
    radius: int
    """How many pixels away a pixel's surroundings may change what becomes of it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.by_stages(x, whole)

    def by_stages(self, x: Tensor, run: RunStage) -> Tensor:
        """The same, each stage by `run`."""
        raise NotImplementedError
