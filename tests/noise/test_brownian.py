"""Brownian paths: increments add up, whatever was asked before, have the variance of time, and are torchsde's."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diafano.noise.brownian import BrownianPath
from diafano.noise.philox import Philox
from diafano.noise.sources import cpu, gpu
from diafano.sampling.samplers.table import PathNoise, dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde

SHAPE, START, END = (4, 8, 8), 0.029, 14.6


def path(seed: int = 5) -> BrownianPath:
    return BrownianPath(seed, SHAPE, START, END, cpu)


@given(times=st.lists(st.floats(START, END), min_size=3, max_size=3), before=st.floats(START, END))
def test_increments_add_up_whatever_was_asked_before(times: list[float], before: float) -> None:
    first, second, third = sorted(times)
    asked, fresh = path(), path()
    asked(before, START)
    whole = asked(first, third)
    torch.testing.assert_close(asked(first, second) + asked(second, third), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(fresh(first, third), whole, atol=1e-5, rtol=0)
    assert torch.equal(asked(third, first), -whole)


def test_variance_is_time_and_steps_are_independent() -> None:
    walked = BrownianPath(1, (200, 200), START, END, cpu)
    times = [END, 9.0, 8.5, 2.0, 0.1, START]
    steps = [walked(now, after) / math.sqrt(now - after) for now, after in pairwise(times)]
    together = torch.stack([step.flatten() for step in steps])
    assert (together.std(dim=1) - 1).abs().max() < 0.02 and together.mean(dim=1).abs().max() < 0.02
    assert (torch.corrcoef(together) - torch.eye(len(steps))).abs().max() < 0.02
    assert not torch.equal(path(1)(1.0, 2.0), path(2)(1.0, 2.0))


@pytest.mark.parametrize("ends", [(0.0292, 14.6146), (0.1, 80.0), (0.5, 0.6)])
def test_it_is_torchsdes_path(ends: tuple[float, float]) -> None:
    torchsde = pytest.importorskip("torchsde")
    low, high = (torch.tensor(end) for end in ends)
    theirs = torchsde.BrownianTree(low, torch.zeros(SHAPE), high, entropy=12345678901)
    ours = BrownianPath(12345678901, SHAPE, float(low), float(high), cpu)
    times = torch.linspace(float(high), float(low), 9)[1:-1].tolist()
    for now, after in pairwise(times):
        torch.testing.assert_close(ours(after, now), theirs(after, now), atol=2e-6, rtol=0)


def test_it_draws_from_whichever_generator() -> None:
    ours = BrownianPath(3, SHAPE, 0.0, 1.0, gpu)
    seeds: list[int] = []
    BrownianPath(3, SHAPE, 0.0, 1.0, lambda seed: seeds.append(seed) or cpu(seed))(0.0, 1.0)
    assert torch.equal(ours(0.0, 1.0), Philox(seeds[0]).normal(SHAPE))


@pytest.mark.parametrize("sampler", [dpmpp_sde, dpmpp_2m_sde, dpmpp_3m_sde])
def test_a_sampler_follows_the_path(sampler: object) -> None:
    """Two runs along one path, of which one has twice the steps, end near each other; along two paths they do not."""
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * END

    def run(steps: int, seed: int) -> torch.Tensor:
        walked = BrownianPath(seed, SHAPE, START, END, cpu)
        noise = PathNoise(lambda: start, lambda now, after: walked(now, after) / math.sqrt(abs(now - after)))
        sigmas = [END * (START / END) ** (step / steps) for step in range(steps + 1)]
        return sampler(lambda x, sigma: x / (1 + sigma**2), start, sigmas, noise_source=noise)  # type: ignore[operator]

    apart = (run(200, 1) - run(400, 1)).std() / (run(200, 1) - run(400, 2)).std()
    assert apart < 0.1
