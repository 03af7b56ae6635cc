"""A run without request, model or program: what it needs, and what its watchers see at each joint."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning
from diafano.noise.schedule import NoiseSchedule
from diafano.sampling.clock import Clock
from diafano.sampling.noise import SeededNoise
from diafano.sampling.prompts import StepPrompts
from diafano.sampling.run import NOBODY, RunPlan, Surroundings, Watchers, run
from diafano.sampling.samplers.single_step import euler, heun
from diafano.sampling.samplers.stepping import StepInfo

SCHEDULE = NoiseSchedule()
SIGMAS = [10.0, 4.0, 1.0, 0.0]
SHAPE = (4, 4, 4)


class Network:
    """ "Noise" that tells which text was given; it remembers its batches."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        self.rows.append(len(latent))
        return conditioning.tokens.mean(dim=(1, 2))[:, None, None, None] + 0.1 * latent


def said(value: float) -> Conditioning:
    return Conditioning(torch.full((1, 3, 2), value))


PROMPTS = [StepPrompts(((said(2.0), 1.0),), said(1.0))] * 3


def latent(network: Any, watchers: Watchers = NOBODY, sampler: Any = euler, **more: Any) -> Tensor:
    plan = RunPlan(SIGMAS, sampler, [3.0] * 3, **more)
    noise = SeededNoise(5).source(range(2), SHAPE, torch.device("cpu"))
    return run(network, SCHEDULE, plan, PROMPTS, noise, watchers=watchers)


def test_the_same_latents_watched_or_not() -> None:
    seen: list[object] = []
    everything = Watchers(*[lambda *told: seen.append(told)] * 3)
    assert torch.equal(latent(Network(), everything), latent(Network()))
    assert seen


def test_each_joint_is_told_of() -> None:
    steps: list[StepInfo] = []
    estimates: list[tuple[int, float, Tensor, Tensor]] = []
    calls: list[tuple[int, int, int, int]] = []

    def on_estimates(clock: Clock, sigma: float, without: Tensor, towards: Tensor) -> None:
        estimates.append((clock.step, sigma, without, towards))

    def on_call(clock: Clock, x: Tensor, timestep: Tensor, told: Conditioning, prediction: Tensor) -> None:
        calls.append((clock.step, clock.call, len(x), told.copies))
        assert prediction.shape == x.shape and timestep.shape == (len(x),)

    latent(Network(), Watchers(steps.append, on_estimates, on_call))
    assert [info.step for info in steps] == [0, 1, 2]
    assert calls == [(step, 0, 4, 2) for step in range(3)]  # two pictures, with the prompt and without: two copies
    assert [(step, sigma) for step, sigma, *_ in estimates] == list(enumerate(SIGMAS[:-1]))
    for info, (_, _, without, towards) in zip(steps, estimates, strict=True):
        torch.testing.assert_close(info.clean, without + 3.0 * (towards - without))


def test_the_clock_counts_the_calls_of_a_step() -> None:
    calls: list[tuple[int, int]] = []
    latent(Network(), Watchers(on_call=lambda clock, *_: calls.append((clock.step, clock.call))), sampler=heun)
    assert len(calls) == 5 and len(set(calls)) == 5  # two evaluations a step, but for the last


def test_a_batch_is_what_each_picture_is_alone() -> None:
    both = latent(Network())
    plan = RunPlan(SIGMAS, euler, [3.0] * 3)
    for place in range(2):
        noise = SeededNoise(5).source(range(place, place + 1), SHAPE, torch.device("cpu"))
        torch.testing.assert_close(run(Network(), SCHEDULE, plan, PROMPTS, noise), both[place : place + 1])


def test_nobody_is_asked_without_guidance() -> None:
    """At guidance 1 there is one estimate, and the network is asked half as much."""
    network, estimates = Network(), []
    plan = RunPlan(SIGMAS, euler, [1.0] * 3)
    noise = SeededNoise(5).source(range(2), SHAPE, torch.device("cpu"))
    run(network, SCHEDULE, plan, PROMPTS, noise, watchers=Watchers(on_estimates=lambda *told: estimates.append(told)))
    assert network.rows == [2, 2, 2] and not estimates


def test_what_needs_a_unet_says_so() -> None:
    with pytest.raises(UserError, match="are for UNets"):
        latent(Network(), cache_interval=2)


def test_what_a_watcher_raises_ends_the_run() -> None:
    def stop(info: StepInfo) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latent(Network(), Watchers(on_step=stop))


def test_conditioning_keeps_what_it_was_cast_to() -> None:
    told = Conditioning(torch.ones(2, 3, 4), pooled=torch.ones(2, 5), numbers=torch.ones(2, 6))
    half = told.to(torch.bfloat16)
    assert told.to(torch.bfloat16) is half and half.to(torch.bfloat16) is half
    assert half.pooled is not None and half.pooled.dtype == torch.bfloat16
    assert half.numbers is not None and half.numbers.dtype == torch.float32
    both = Conditioning.cat([told, told], copies=2)
    assert len(both) == 4 and both.copies == 2 and both.shapes == told.shapes
    with pytest.raises(UserError, match="do not fit in one batch"):
        Conditioning.cat([told, Conditioning(torch.ones(2, 4, 4))])
    assert Surroundings().start is None
