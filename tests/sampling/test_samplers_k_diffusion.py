"""Whole runs in float32 against the k-diffusion package's samplers and diffusers' PNDM, UniPC and LCM."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler, PNDMScheduler, UniPCMultistepScheduler
from torch import Tensor

from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.samplers.table import find_sampler, lcm, pndm, uni_pc, with_options
from diafano.sampling.sigmas import find_schedule, uniform_sigmas

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

V1 = NoiseSchedule()
MIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 3


def draws(seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(2, 4, 3, 3, generator=generator)


START = next(draws(1))


@pytest.fixture(scope="module")
def sampling(k_diffusion: Any) -> Any:
    return k_diffusion.sampling


def denoise(x: Tensor, sigma: Any) -> Tensor:
    """A smooth clean estimate that mixes channels and depends on sigma; theirs is (batch,), ours a number."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
    scaled = x / (1 + sigma**2).sqrt()
    return 0.7 * torch.tanh(scaled + torch.einsum("oc,bchw->bohw", MIX, scaled)) * (1 + 0.2 * torch.cos(sigma))


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


ROWS = [
    ("euler", {}),
    ("euler", {"s_churn": 5.0, "s_noise": 1.01}),
    ("euler_ancestral", {"eta": 0.7, "s_noise": 0.9}),
    ("heun", {}),
    ("euler", {"s_churn": 5.0, "s_tmin": 0.3, "s_tmax": 5.0}),
    ("heun", {"s_churn": 30.0}),
    ("heun", {"s_churn": 30.0, "s_tmin": 1.0}),
    ("dpm_2", {}),
    ("dpm_2", {"s_churn": 5.0, "s_noise": 1.01}),
    ("dpm_2", {"s_churn": 5.0, "s_tmax": 2.0}),
    ("dpm_2_ancestral", {}),
    ("dpm_2_ancestral", {"eta": 0.5, "s_noise": 0.9}),
    ("lms", {}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.5, "s_noise": 0.9}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.5, "s_noise": 0.9}),
    ("dpmpp_2m", {}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"eta": 0.5, "s_noise": 0.9}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"eta": 0.5, "s_noise": 0.9}),
]


@pytest.mark.parametrize("schedule", ["normal", "karras", "exponential"])
@pytest.mark.parametrize(("name", "options"), ROWS, ids=[f"{name}-{options}" for name, options in ROWS])
def test_k_diffusion(
    sampling: Any, name: str, options: dict[str, float], schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sigmas = find_schedule(schedule).function(V1, 20)
    theirs, ours = draws(2), draws(2)
    arguments: dict[str, Any] = dict(options)
    if find_sampler(name).stochastic:
        arguments["noise_sampler"] = lambda sigma, after: next(theirs)
    else:
        monkeypatch.setattr(torch, "randn_like", lambda x: next(theirs))
    x = START * sigmas[0]
    expected = getattr(sampling, f"sample_{name}")(denoise, x, torch.tensor(sigmas), disable=True, **arguments)
    sampler = with_options(find_sampler(name).function, options)
    assert_same(sampler(denoise, x, sigmas, noise_source=lambda: next(ours)), expected)


def network(latent: Tensor, timestep: Tensor, text: object) -> Tensor:
    mixed = torch.einsum("oc,bchw->bohw", MIX, latent)
    return 0.8 * torch.tanh(latent + mixed) + 0.3 * torch.sin(timestep / 150).reshape(-1, 1, 1, 1)


def ours(sampler: Any, schedule: NoiseSchedule, sigmas: list[float]) -> Tensor:
    denoiser, noise = Denoiser(network, schedule), draws(2)
    start = schedule.start(START, sigmas[0])
    end = sampler(lambda x, sigma: denoiser(x, sigma, START), start, sigmas, noise_source=lambda: next(noise))
    return schedule.finish(end, sigmas[-1])


def theirs(scheduler: Any, **arguments: Any) -> Tensor:
    latent = START
    for timestep in scheduler.timesteps:
        output = network(latent, timestep.float().expand(2), START)
        latent = scheduler.step(output, timestep, latent, **arguments).prev_sample
    return latent


BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("steps", [2, 4, 20, 50])
def test_pndm(steps: int, to_one: bool) -> None:
    """Noise prediction only: of v, diffusers mixes what the network says at different sigmas, not the slopes."""
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=to_one)
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule(ScheduleConfig(final_sigma="zero" if to_one else "first"))
    assert_same(ours(pndm, schedule, uniform_sigmas(schedule, steps)), theirs(scheduler))


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("steps", [3, 20])
def test_uni_pc(steps: int, final: Any) -> None:
    schedule = NoiseSchedule(ScheduleConfig(final_sigma=final))
    scheduler = UniPCMultistepScheduler(
        **BETAS,
        final_sigmas_type="zero" if final == "zero" else "sigma_min",
        lower_order_final=final == "zero",  # for a run that ends above 0 there is no reason
    )
    scheduler.set_timesteps(steps)
    sigmas = [schedule.sigma_of(timestep) for timestep in scheduler.timesteps.tolist()]
    sigmas.append(0.0 if final == "zero" else schedule.sigma_of(0))
    assert_same(ours(uni_pc, schedule, sigmas), theirs(scheduler))


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = LCMScheduler(**BETAS)
    scheduler.set_timesteps(steps)
    noise = draws(2)
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(noise))
    assert_same(ours(lcm, V1, find_schedule("lcm").function(V1, steps)), theirs(scheduler))
