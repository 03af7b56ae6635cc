"""From seeds to the noise that a run starts from, and that its sampler adds on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diafano.engine.devices import to_device
from diafano.noise.brownian import BrownianPath
from diafano.noise.schedule import NoiseSource
from diafano.noise.sources import Draw, cpu
from diafano.noise.variations import varied
from diafano.sampling.samplers.stepping import PathNoise


@dataclass(frozen=True)
class SeededNoise:
    """All noise of the pictures of a batch: whatever of them are drawn together, each gets what it would get alone."""

    seed: int
    """Of the picture at place 0; that at place i has ``seed + i``, unless one generator draws for all."""
    batch: int = 1
    """Pictures of the whole batch."""
    generator: Callable[[int], Draw] = cpu
    """Of the start noise."""
    generator_on_the_way: Callable[[int], Draw] | None = None
    """Of later noise, where one draws for all; None: the generator of the start noise goes on."""
    one_for_all: bool = False
    """Whether one generator draws for the whole batch, not one for each picture."""
    variation: tuple[int, float] | None = None
    """A second seed, and how far the start noise is led to its own; the first seed then stays the same for all."""
    path_sigmas: Sequence[float] | None = None
    """The levels that a Brownian path leads through, from which a sampler takes its noise; None: each draw is new."""

    def source(self, places: range, shape: Sequence[int], device: torch.device) -> NoiseSource:
        """Gives unit-normal noise (len(places), *shape), float32, on the device at each call.

        `shape` is one latent's, (channels, h, w). It is drawn on the CPU, so that a seed's picture does not depend on
        the device.
        """
        own = range(1) if self.variation is not None and not self.one_for_all else places
        draw = self.draws(own, shape)
        if self.variation is not None:
            seed, strength = self.variation
            draw = varied(draw, replace(self, seed=seed, variation=None).draws(places, shape), strength)

        def on_device(noise: Tensor) -> Tensor:
            return to_device(noise.expand(len(places), *shape), device)

        if self.path_sigmas is None:
            return lambda: on_device(draw())
        path = self.path(own, shape, self.path_sigmas)
        return PathNoise(lambda: on_device(draw()), lambda now, after: on_device(path(now, after)))

    def draws(self, places: range, shape: Sequence[int]) -> NoiseSource:
        """Noise (len(places), *shape) at each call, without variation."""
        if not self.one_for_all:
            draws = [self.generator(self.seed + place) for place in places]
            return lambda: torch.cat([draw((1, *shape)) for draw in draws])
        start = self.generator(self.seed)
        further = start if self.generator_on_the_way is None else self.generator_on_the_way(self.seed)
        calls = iter([start])
        return lambda: next(calls, further)((self.batch, *shape))[places.start : places.stop]

    def path(self, places: range, shape: Sequence[int], sigmas: Sequence[float]) -> Callable[[float, float], Tensor]:
        """``path(now, after)``: unit-normal noise (len(places), *shape) of the way between two of the run's sigmas."""
        ends = min(sigma for sigma in sigmas if sigma > 0.0), max(sigmas)
        if self.one_for_all:
            paths = [BrownianPath(self.seed, (self.batch, *shape), *ends, self.generator)]
        else:
            paths = [BrownianPath(self.seed + place, (1, *shape), *ends, self.generator) for place in places]

        def between(now: float, after: float) -> Tensor:
            noise = torch.cat([path(now, after) for path in paths]) / math.sqrt(abs(now - after))
            return noise[places.start : places.stop] if self.one_for_all else noise

        return between
