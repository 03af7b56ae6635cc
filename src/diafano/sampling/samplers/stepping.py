"""What the samplers share: what they are given, the walk along the sigmas, and how much noise a step adds."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor

from diafano.errors import UserError

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma)`` -> clean estimate of x's shape."""

NoiseSource = Callable[[], Tensor]
"""Gives unit-normal noise of x's shape at each call."""


@dataclass(frozen=True)
class PathNoise:
    """A noise source that also knows a path through all noise levels, of which stochastic equations take their noise.

    Without one each of their draws stands alone, which is the same in distribution.
    """

    draw: NoiseSource
    between: Callable[[float, float], Tensor]
    """``between(now, after)``: unit-normal noise, the same for the same two sigmas."""

    def __call__(self) -> Tensor:
        return self.draw()


LARGEST_CHURN = math.sqrt(2.0) - 1.0
"""Karras et al. 2022, algorithm 2: a step never adds more noise than there is."""


PURE_NOISE = 100.0
"""A sigma at which a hundredth of the signal is left; that of Stable Diffusion's own schedule ends at 14.6."""
LEAP = 0.25


class StepInfo(NamedTuple):
    """What a watcher sees of one step, before x moves on."""

    step: int
    """0 for the first."""
    sigma: float
    x: Tensor
    """Noisy latent at `sigma`."""
    clean: Tensor
    """Clean estimate made from x (where a step evaluates twice: the first)."""


OnStep = Callable[[StepInfo], object]


class SamplerFunction(Protocol):
    """What a sampler is. Options of its own are further keyword arguments, which all have defaults: `with_options`."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Sequence[float],
        *,
        noise_source: NoiseSource | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """From x at ``sigmas[0]`` to x at ``sigmas[-1]``."""


def with_options(function: SamplerFunction, options: Mapping[str, Any]) -> SamplerFunction:
    """The sampler with these options; which one takes which, its row in the table says."""
    filled: SamplerFunction = partial(cast(Any, function), **options)
    return filled


def walk(sigmas: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """(step, sigma now, sigma after) along a grid that never rises and is above 0 until its end."""
    pairs = list(itertools.pairwise(sigmas))
    for step, (now, after) in enumerate(pairs):
        if not (math.isfinite(now) and now > 0.0 and 0.0 <= after <= now):
            raise UserError(f"sigmas must fall and stay above 0 until the end, but step {step} goes {now} -> {after}")
    return ((step, now, after) for step, (now, after) in enumerate(pairs))


def ancestral_step(now: float, after: float, eta: float) -> tuple[float, float]:
    """Sizes of fresh and kept noise at the sigma `after`: ``up^2 + down^2 = after^2``."""
    share = eta * math.sqrt(1.0 - (after / now) ** 2)
    return after * share, after * math.sqrt(1.0 - share**2)


class Churn(NamedTuple):
    """Fresh noise before steps: Karras et al. 2022, algorithm 2, in its own letters."""

    s_churn: float
    """Its amount, summed over the run; 0: nothing is drawn."""
    s_tmin: float
    s_tmax: float
    """Steps from sigmas outside of these two get none."""
    s_noise: float
    """A factor on its spread."""

    def checked(self) -> "Churn":
        """The same. Raises UserError for what cannot be."""
        amount, lowest, highest, _ = self
        if not (math.isfinite(amount) and amount >= 0.0):
            raise UserError(f"s_churn {amount} is no amount of noise: use 0 for none, or a number up to about 100")
        if not lowest <= highest:
            raise UserError(f"s_tmin {lowest} is not below s_tmax {highest}, so no step gets noise: give others")
        check_noise_scale(self.s_noise)
        return self

    def before(
        self, x: Tensor, now: float, steps: int, noise_source: NoiseSource | None, who: str
    ) -> tuple[Tensor, float]:
        """Lines 4 to 6: x with noise on it and its new sigma, higher up, in one of the run's `steps`."""
        share = min(self.s_churn / steps, LARGEST_CHURN)
        if share == 0.0:
            return x, now
        # Drawn in any case, as k-diffusion does: what noise a step gets does not depend on the limits.
        fresh = fresh_noise(noise_source, f"{who} with churn")
        if not self.s_tmin <= now <= self.s_tmax:
            return x, now
        raised = now * (1.0 + share)
        return x + self.s_noise * math.sqrt(raised**2 - now**2) * fresh, raised


def leaves_pure_noise(now: float, after: float) -> bool:
    """Whether a step comes down from where x is nothing but noise, in a leap.

    Schedules that end at (nearly) no signal, as cosine ones do, begin with such a step: the next sigma is a small share
    of the first. Slopes hardly change with x there, but their small change is multiplied by all of the huge sigma, so
    methods that mix two slopes end far off. The first-order step, to the mean of what the noise may hide, is right.
    """
    return now > PURE_NOISE and after < LEAP * now


def report(on_step: OnStep | None, step: int, sigma: float, x: Tensor, clean: Tensor) -> None:
    if on_step is not None:
        on_step(StepInfo(step, sigma, x, clean))


def fresh_noise(noise_source: NoiseSource | None, who: str) -> Tensor:
    if noise_source is None:
        raise UserError(f"{who} draws fresh noise at each step: pass a noise_source")
    return noise_source()


def noise_between(noise_source: NoiseSource | None, now: float, after: float, who: str) -> Tensor:
    """Fresh noise of a stochastic equation's way from one sigma to another: that of the path, if there is one."""
    if isinstance(noise_source, PathNoise):
        return noise_source.between(now, after)
    return fresh_noise(noise_source, who)


def check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta {eta} is no share of fresh noise: use 0 (none) to 1 (all)")


def check_noise_scale(s_noise: float) -> None:
    if not (math.isfinite(s_noise) and s_noise >= 0.0):
        raise UserError(f"s_noise {s_noise} cannot scale fresh noise: use a number near 1, and 0 or more")
