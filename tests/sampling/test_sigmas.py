"""Schedules: grids against diffusers' own and k-diffusion's, formulas written out, and the names that users type."""

import importlib.util
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diafano.errors import UserError
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.sampling.sigmas import (
    ALIGNED_SIGMAS,
    SCHEDULES,
    Schedule,
    beta_quantile,
    find_schedule,
    karras_sigmas,
    polyexponential_sigmas,
    uniform_sigmas,
    uniform_timesteps,
)

V1 = NoiseSchedule()
KINDS = {
    "scaled_linear": V1,
    "linear": NoiseSchedule(ScheduleConfig(kind="linear", beta_start=1e-4, beta_end=0.02)),
    "cosine": NoiseSchedule(ScheduleConfig(kind="cosine")),
    "zero_terminal_snr": NoiseSchedule(ScheduleConfig(prediction="v", zero_terminal_snr=True)),
}
SPACINGS = ["leading", "trailing", "linspace"]
LOG_ENDS = math.log(float(V1.sigmas[-1])), math.log(float(V1.sigmas[0]))


def with_spacing(spacing: Any, **fields: Any) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(spacing=spacing, **fields))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [2, 7, 20, 30, 50, 333, 999])
def test_uniform_timesteps_are_diffusers(spacing: str, steps: int) -> None:
    oracle = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    oracle.set_timesteps(steps)
    assert uniform_timesteps(with_spacing(spacing), steps) == oracle.timesteps.tolist()


@pytest.mark.parametrize("spacing", SPACINGS)
@given(steps=st.integers(1, 1000), offset=st.integers(0, 5))
def test_uniform_timesteps_fall_within_the_trained_ones(spacing: str, steps: int, offset: int) -> None:
    timesteps = uniform_timesteps(with_spacing(spacing, steps_offset=offset), steps)
    assert len(timesteps) == steps
    assert all(after < before for before, after in pairwise(timesteps))
    assert timesteps[0] <= 999 and timesteps[-1] >= 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_single_step_starts_where_all_is_noise(spacing: str) -> None:
    assert uniform_timesteps(with_spacing(spacing), 1) == [999]


@pytest.mark.parametrize(("final_sigma", "last"), [("zero", 0.0), ("first", float(V1.sigmas[0]))])
def test_uniform_sigmas_are_those_of_the_timesteps(final_sigma: str, last: float) -> None:
    schedule = with_spacing("leading", final_sigma=final_sigma)
    sigmas = uniform_sigmas(schedule, 50)
    assert sigmas == [*(float(schedule.sigmas[t]) for t in range(981, 0, -20)), last]
    assert all(isinstance(sigma, float) for sigma in sigmas)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2 about diffusers
def test_karras_sigmas_are_diffusers() -> None:
    oracle = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
    )  # of diffusers' schedulers the one that takes the range of all trained sigmas
    oracle.set_timesteps(25)
    np.testing.assert_allclose(karras_sigmas(V1, 25), oracle.sigmas.numpy(), rtol=2e-5)


@given(steps=st.integers(1, 1000), kind=st.sampled_from(sorted(KINDS)), name=st.sampled_from(sorted(SCHEDULES)))
def test_every_grid_falls_to_zero(steps: int, kind: str, name: str) -> None:
    sigmas = find_schedule(name).function(KINDS[kind], steps)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0.0
    assert all(after < before for before, after in pairwise(sigmas))


@pytest.mark.parametrize(("kind", "top"), [("scaled_linear", 14.6146), ("cosine", 80.0), ("zero_terminal_snr", 80.0)])
def test_karras_starts_at_80_at_most(kind: str, top: float) -> None:
    sigmas = karras_sigmas(KINDS[kind], 10)
    assert sigmas[0] == pytest.approx(top, rel=1e-5)
    assert sigmas[-2] == float(KINDS[kind].sigmas[0])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_grids_refuse_steps_that_cannot_be_taken(name: str, steps: int) -> None:
    with pytest.raises(UserError, match=f"{steps} steps"):
        SCHEDULES[name].function(V1, steps)


def test_karras_refuses_a_rho_that_does_not_fall() -> None:
    with pytest.raises(UserError, match="rho 0"):
        karras_sigmas(V1, 10, rho=0.0)


def test_find_schedule_ignores_case_and_names_the_known_ones() -> None:
    assert find_schedule(" Karras ").function is karras_sigmas
    with pytest.raises(UserError, match="automatic, uniform, karras"):
        find_schedule("banana")


def grid(name: str, steps: int) -> list[float]:
    return find_schedule(name).function(V1, steps)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2 about diffusers
@pytest.mark.parametrize("name", ["exponential", "beta"])
@pytest.mark.parametrize("steps", [2, 9, 30])
def test_grids_that_diffusers_has(name: str, steps: int) -> None:
    if name == "beta" and importlib.util.find_spec("scipy") is None:
        pytest.skip("diffusers needs scipy for beta sigmas")
    arguments: dict[str, Any] = {f"use_{name}_sigmas": True, "timestep_spacing": "linspace"}
    oracle = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **arguments)
    oracle.set_timesteps(steps)
    np.testing.assert_allclose(grid(name, steps), oracle.sigmas.numpy(), rtol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 50])
def test_lcm_has_diffusers_timesteps(steps: int) -> None:
    oracle = LCMScheduler()
    oracle.set_timesteps(steps)
    assert grid("lcm", steps)[:-1] == [V1.sigma_of(int(timestep)) for timestep in oracle.timesteps]


@pytest.mark.parametrize("steps", [2, 7, 25])
def test_grids_of_a1111_and_comfyui(steps: int) -> None:
    """As modules/sd_schedulers.py and comfy/samplers.py have them, written out in their own way."""
    times = np.linspace(999, 0, steps)
    assert grid("normal", steps)[:-1] == pytest.approx([V1.sigma_of(float(time)) for time in times], rel=1e-9)
    times = np.linspace(999, 0, steps + 1)[:-1]
    assert grid("sgm_uniform", steps)[:-1] == pytest.approx([V1.sigma_of(float(time)) for time in times], rel=1e-9)
    simple = [float(V1.sigmas[-(1 + int(x * 1000 / steps))]) for x in range(steps)]
    assert grid("simple", steps) == [*simple, 0.0]
    ddim = [float(sigma) for sigma in V1.sigmas[1 :: 1000 // steps]][:steps]
    assert grid("ddim_uniform", steps) == [*reversed(ddim), 0.0]
    angles = np.linspace(math.atan(float(V1.sigmas[-1])), math.atan(float(V1.sigmas[0])), steps)
    assert grid("kl_optimal", steps)[:-1] == pytest.approx(np.tan(angles), rel=1e-9)
    logs = np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, len(ALIGNED_SIGMAS)), np.log(ALIGNED_SIGMAS))
    assert grid("align_your_steps", steps)[:-1] == pytest.approx(np.exp(logs), rel=1e-9)


def test_aligned_steps_are_the_papers_own_for_ten() -> None:
    assert grid("align_your_steps", 11) == pytest.approx([*ALIGNED_SIGMAS, 0.0], rel=1e-12)


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_polyexponential_is_a_power_in_log_sigma(rho: float) -> None:
    ramp = torch.linspace(1, 0, 12, dtype=torch.float64) ** rho  # k-diffusion's get_sigmas_polyexponential
    expected = torch.exp(ramp * (LOG_ENDS[0] - LOG_ENDS[1]) + LOG_ENDS[1]).tolist()
    assert polyexponential_sigmas(V1, 12, rho)[:-1] == pytest.approx(expected, rel=1e-9)
    assert (polyexponential_sigmas(V1, 12, rho) == grid("exponential", 12)) == (rho == 1.0)


@given(share=st.floats(0, 1))
def test_beta_quantiles_that_have_a_formula(share: float) -> None:
    assert beta_quantile(share, 0.5, 0.5) == pytest.approx(math.sin(math.pi * share / 2) ** 2, abs=1e-14)
    assert beta_quantile(share, 3.0, 1.0) == pytest.approx(share ** (1 / 3), rel=1e-9, abs=1e-14)
    assert beta_quantile(share, 1.0, 3.0) == pytest.approx(1 - (1 - share) ** (1 / 3), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("row", SCHEDULES.values(), ids=list(SCHEDULES))
def test_every_schedule_is_found_by_each_of_its_names(row: Schedule) -> None:
    for name in (row.name, row.label, *row.aliases):
        assert find_schedule(name.upper()) is row
