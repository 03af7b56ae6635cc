"""Additive noise: closed form against small steps, sigma against timestep."""

import math
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diafano.errors import UserError
from diafano.explain.noise_strip import filmstrip
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig

V1 = NoiseSchedule()
SNR0 = NoiseSchedule(ScheduleConfig(prediction="v", zero_terminal_snr=True))
KINDS = {
    "scaled_linear": V1,
    "linear": NoiseSchedule(ScheduleConfig(kind="linear", beta_start=1e-4, beta_end=0.02)),
    "cosine": NoiseSchedule(ScheduleConfig(kind="cosine")),
    "zero_terminal_snr": SNR0,
}


def basis_noise(size: int) -> Any:
    """Noise source whose i-th draw is the i-th unit vector (from 1): a tensor then holds each draw's exact weight."""
    draws = count(1)
    return lambda: torch.eye(size, dtype=torch.float64)[next(draws)]


# the schedule itself


def test_v1_has_the_known_sigmas() -> None:
    assert V1.sigmas.dtype == torch.float64 and V1.sigmas.shape == (1000,)
    assert float(V1.sigmas[0]) == pytest.approx(0.0292, abs=5e-5)
    assert float(V1.sigmas[-1]) == pytest.approx(14.6146, abs=5e-5)
    assert float(V1.alphas_cumprod[0]) == pytest.approx(1 - 0.00085, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sigmas_rise_and_alphas_fall(kind: str) -> None:
    schedule = KINDS[kind]
    assert bool((schedule.sigmas.diff() > 0).all()) and bool((schedule.alphas_cumprod.diff() < 0).all())
    exact = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    assert torch.equal(schedule.sigmas, exact) and bool(torch.isfinite(schedule.sigmas).all())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ScheduleConfig(), {"beta_schedule": "scaled_linear"}),
        (ScheduleConfig(kind="linear", beta_start=1e-4, beta_end=0.02), {"beta_start": 1e-4, "beta_end": 0.02}),
        (ScheduleConfig(kind="cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
        (
            ScheduleConfig(prediction="v", zero_terminal_snr=True),
            {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
        ),
    ],
)
def test_alphas_are_diffusers(ours: ScheduleConfig, theirs: dict[str, Any]) -> None:
    arguments = {"beta_start": 0.00085, "beta_end": 0.012, **theirs}
    expected = EulerDiscreteScheduler(**arguments).alphas_cumprod.double()
    # diffusers multiplies 1000 float32 factors; a last alpha near 0 keeps only the absolute digits of that
    torch.testing.assert_close(NoiseSchedule(ours).alphas_cumprod, expected, rtol=2e-5, atol=1e-7)


def test_cosine_betas_are_capped() -> None:
    kept = KINDS["cosine"].alphas_cumprod
    betas = 1 - kept[1:] / kept[:-1]
    assert float(betas.max()) == pytest.approx(0.999, rel=1e-9)


def test_zero_terminal_snr_keeps_the_first_alpha_and_drowns_the_last() -> None:
    assert float(SNR0.alphas_cumprod[0]) == pytest.approx(float(V1.alphas_cumprod[0]), rel=1e-12)
    assert float(SNR0.alphas_cumprod[-1]) == 2.0**-24
    assert float(SNR0.sigmas[-1]) == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "sigmoid"},
        {"steps": 1},
        {"beta_start": 0.5, "beta_end": 0.1},
        {"zero_terminal_snr": True},
        {"colour": "red"},
    ],
)
def test_config_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        ScheduleConfig(**fields)


# sigma <-> timestep


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_exact_at_trained_timesteps(kind: str) -> None:
    schedule = KINDS[kind]
    for timestep, sigma in enumerate(schedule.sigmas.tolist()):
        assert schedule.sigma_of(timestep) == sigma
        assert schedule.timestep_of(sigma) == timestep


@given(st.floats(0, 999))
def test_round_trip_between_trained_timesteps(timestep: float) -> None:
    assert V1.timestep_of(V1.sigma_of(timestep)) == pytest.approx(timestep, abs=1e-8)


def test_between_timesteps_log_sigma_is_linear() -> None:
    middle = math.sqrt(float(V1.sigmas[500]) * float(V1.sigmas[501]))
    assert V1.sigma_of(500.5) == pytest.approx(middle, rel=1e-12)


def test_sigma_beyond_the_trained_range_gets_the_nearest_end() -> None:
    assert V1.timestep_of(0.0) == 0.0
    assert V1.timestep_of(1e-5) == 0.0
    assert V1.timestep_of(1e9) == 999.0


@pytest.mark.parametrize("timestep", [-1, 999.5, math.nan])
def test_timestep_outside_is_refused(timestep: float) -> None:
    with pytest.raises(UserError, match="0 to 999"):
        V1.sigma_of(timestep)


@pytest.mark.parametrize("sigma", [-1.0, math.nan])
def test_sigma_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(UserError, match="noise level"):
        V1.timestep_of(sigma)


# adding noise


def test_add_noise_takes_each_picture_to_its_own_timestep() -> None:
    clean, noise = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    timestep = torch.tensor([0, 500, 999])
    noisy = V1.add_noise(clean, noise, timestep)
    for picture, t in enumerate(timestep.tolist()):
        kept = float(V1.alphas_cumprod[t])
        expected = math.sqrt(kept) * clean[picture] + math.sqrt(1 - kept) * noise[picture]
        torch.testing.assert_close(noisy[picture], expected)
        exploding = noisy[picture] * math.sqrt(1 + float(V1.sigmas[t]) ** 2)
        torch.testing.assert_close(exploding, clean[picture] + float(V1.sigmas[t]) * noise[picture])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_noise_keeps_the_dtype(dtype: torch.dtype) -> None:
    clean = torch.ones(2, 4, dtype=dtype)
    timestep = torch.tensor([10, 990])
    assert V1.add_noise(clean, clean, timestep).dtype == dtype
    schedule = NoiseSchedule(ScheduleConfig(prediction="v"))
    assert schedule.target(clean, clean, timestep).dtype == dtype


def test_targets_are_diffusers() -> None:
    clean, noise = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([0, 1, 300, 700, 999])
    oracle = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    velocity = NoiseSchedule(ScheduleConfig(prediction="v")).target(clean, noise, timestep)
    torch.testing.assert_close(velocity, oracle.get_velocity(clean, noise, timestep), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        V1.add_noise(clean, noise, timestep), oracle.add_noise(clean, noise, timestep), rtol=1e-5, atol=1e-5
    )
    assert V1.target(clean, noise, timestep) is noise
    assert NoiseSchedule(ScheduleConfig(prediction="clean")).target(clean, noise, timestep) is clean


def test_signal_to_noise_is_one_over_sigma_squared() -> None:
    timestep = torch.tensor([0, 400, 999])
    torch.testing.assert_close(V1.signal_to_noise(timestep), (1 / V1.sigmas[timestep] ** 2).float())


@pytest.mark.parametrize("timesteps", [[999], [0, 999], [100, 250, 600, 999], list(range(1000))])
def test_small_steps_have_the_weights_of_the_closed_form(timesteps: list[int]) -> None:
    size = len(timesteps) + 1
    clean = torch.eye(size, dtype=torch.float64)[0]
    frames = list(V1.add_noise_in_steps(clean, timesteps, basis_noise(size)))
    assert len(frames) == len(timesteps)
    for frame, timestep in zip(frames, timesteps, strict=True):
        kept = float(V1.alphas_cumprod[timestep])
        assert float(frame[0]) == pytest.approx(math.sqrt(kept), rel=1e-9)  # mean
        assert float((frame[1:] ** 2).sum()) == pytest.approx(1 - kept, rel=1e-9)  # variance
    for (before, s), (after, t) in pairwise(zip(frames, timesteps, strict=True)):
        shared = float((before[1:] * after[1:]).sum())  # a chain: the later frame holds the earlier one's noise
        kept_s, kept_t = float(V1.alphas_cumprod[s]), float(V1.alphas_cumprod[t])
        assert shared == pytest.approx(math.sqrt(kept_t / kept_s) * (1 - kept_s), rel=1e-9)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_small_steps_and_closed_form_agree_in_distribution(steps: int) -> None:
    samples, value, timestep = 100_000, 1.5, 600
    generator = torch.Generator().manual_seed(steps)

    def noise() -> torch.Tensor:
        return torch.randn(samples, generator=generator, dtype=torch.float64)

    clean = torch.full((samples,), value, dtype=torch.float64)
    timesteps = [round(timestep * (step + 1) / steps) for step in range(steps)]
    *_, in_steps = V1.add_noise_in_steps(clean, timesteps, noise)
    at_once = V1.add_noise(clean, noise(), torch.full((samples,), timestep))

    kept = float(V1.alphas_cumprod[timestep])
    error_of_mean = math.sqrt((1 - kept) / samples)
    error_of_variance = (1 - kept) * math.sqrt(2 / (samples - 1))
    for noisy in (in_steps, at_once):  # 4.5 standard errors: one run in 100,000 would stray so far by chance
        assert abs(float(noisy.mean()) - math.sqrt(kept) * value) < 4.5 * error_of_mean
        assert abs(float(noisy.var()) - (1 - kept)) < 4.5 * error_of_variance


@pytest.mark.parametrize("timesteps", [[5, 5], [7, 3], [-1, 3], [0, 1000]])
def test_small_steps_refuse_at_the_call(timesteps: list[int]) -> None:
    with pytest.raises(UserError, match="timestep"):
        V1.add_noise_in_steps(torch.zeros(1), timesteps, lambda: torch.zeros(1))


def test_filmstrip_goes_from_clean_to_drowned_in_even_steps() -> None:
    frames = filmstrip(V1, torch.eye(6, dtype=torch.float64)[0], 6, basis_noise(6))
    assert len(frames) == 6
    shares = [float(frame[0]) ** 2 for frame in frames]
    expected = [1.0, *(float(V1.alphas_cumprod[round(999 * part / 5)]) for part in range(1, 6))]
    assert shares == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("frames", [1, 1001])
def test_filmstrip_refuses(frames: int) -> None:
    with pytest.raises(UserError, match=str(frames)):
        filmstrip(V1, torch.zeros(1), frames, lambda: torch.zeros(1))


def test_start_and_finish_are_the_border_of_the_currencies() -> None:
    noise = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    sigma = V1.sigma_of(981)
    c_in = 1 / math.sqrt(1 + sigma**2)
    torch.testing.assert_close(c_in * V1.start(noise, sigma), noise)
    torch.testing.assert_close(V1.finish(V1.start(noise, sigma), sigma), noise)
    assert torch.equal(V1.finish(noise, 0.0), noise)
