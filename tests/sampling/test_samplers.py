"""Samplers against mathematics: on Gaussian data every run has an exact answer."""

import math
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.sampling.samplers.table import (
    SAMPLERS,
    Denoise,
    NoiseSource,
    SamplerFunction,
    StepInfo,
    ddim,
    ddpm,
    dpm_2,
    dpm_2_ancestral,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
    euler,
    euler_ancestral,
    find_sampler,
    heun,
    lcm,
    lms,
    pndm,
    uni_pc,
)
from diafano.sampling.sigmas import find_schedule

MEAN, SPREAD = 0.7, 0.5
DETERMINISTIC = [name for name, row in SAMPLERS.items() if not row.stochastic]
STOCHASTIC = {
    "ddpm": ddpm,
    "ddim eta 1": lambda *a, **k: ddim(*a, eta=1.0, **k),
    "ddim eta 0.5": lambda *a, **k: ddim(*a, eta=0.5, **k),
    "euler_ancestral": euler_ancestral,
    "euler_ancestral eta 0.5": lambda *a, **k: euler_ancestral(*a, eta=0.5, **k),
    "dpm_2_ancestral": dpm_2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2m_sde eta 0.5": lambda *a, **k: dpmpp_2m_sde(*a, eta=0.5, **k),
    "dpmpp_3m_sde": dpmpp_3m_sde,
}


def gaussian(mean: float = MEAN, spread: float = SPREAD) -> Denoise:
    """The exact denoiser of data N(mean, spread^2)."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return mean + spread**2 / (spread**2 + sigma**2) * (x - mean)

    return denoise


def geometric(top: float, end: float, steps: int) -> list[float]:
    """A grid with equal steps of log sigma: halving the step inserts the middles."""
    return [top * (end / top) ** (step / steps) for step in range(steps + 1)]


def exact_end(x: Tensor, top: float, end: float) -> Tensor:
    """Solution of dx/dsigma = (x - clean) / sigma: the distance from the mean shrinks like the marginal's spread."""
    return MEAN + math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + top**2)) * (x - MEAN)


X = torch.tensor([[-9.0, 0.3, 4.0, 14.0]], dtype=torch.float64)


def error(name: str, steps: int) -> float:
    found = SAMPLERS[name].function(gaussian(), X, geometric(10.0, 0.1, steps))
    return float((found - exact_end(X, 10.0, 0.1)).abs().max())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_halving_the_step_divides_the_error_by_two_to_the_order(name: str) -> None:
    if name == "lms":  # its first steps are of lower order, which shows unless they have little to do
        grids = [geometric(1e5, 0.1, steps) for steps in (400, 800)]
        ends = [lms(gaussian(), 1e4 * X, sigmas) - exact_end(1e4 * X, 1e5, 0.1) for sigmas in grids]
        ratio = float(ends[0].abs().max() / ends[1].abs().max())
    else:
        ratio = error(name, 100) / error(name, 200)
    assert math.log2(ratio) == pytest.approx(SAMPLERS[name].order, abs=0.08)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_run_to_zero_draws_from_the_data(name: str) -> None:
    end = SAMPLERS[name].function(gaussian(), X, [*geometric(20.0, 0.01, 400), 0.0])
    torch.testing.assert_close(end, exact_end(X, 20.0, 0.0), rtol=0, atol=0.05)


def test_second_order_beats_first_at_equal_evaluations() -> None:
    assert error("dpmpp_2m", 40) < error("euler", 40) / 5
    assert error("heun", 20) < error("euler", 40) / 3


def weights(sampler: Any, spread: float, sigmas: list[float]) -> Tensor:
    """How much of each unit-normal draw (start first) is in the end of a run on N(0, spread^2), as basis vectors."""
    basis = torch.eye(2 * len(sigmas), dtype=torch.float64)
    draws = count(1)
    return sampler(gaussian(0.0, spread), sigmas[0] * basis[0], sigmas, noise_source=lambda: basis[next(draws)])


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("steps", [1, 5, 50])
def test_on_one_picture_the_variance_is_that_of_the_last_sigma(name: str, steps: int) -> None:
    found = weights(STOCHASTIC[name], 0.0, geometric(10.0, 0.3, steps))  # exact however few the steps
    assert float((found**2).sum()) == pytest.approx(0.3**2, rel=1e-12)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_variance_converges_to_that_of_the_data(name: str) -> None:
    wrong = []
    for steps in (100, 200, 400):
        grid = geometric(40.0, 0.05, steps)
        wrong.append(abs(float((weights(STOCHASTIC[name], SPREAD, grid) ** 2).sum()) - (SPREAD**2 + 0.05**2)))
    assert wrong[0] < 0.1 * SPREAD**2
    order = 1.0 if name.split()[0] in ("ddpm", "ddim", "euler_ancestral", "dpmpp_sde") else 2.0  # in distribution
    assert math.log2(wrong[0] / wrong[1]) == pytest.approx(order, abs=0.15)
    assert math.log2(wrong[1] / wrong[2]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_end_distribution_with_drawn_noise(name: str) -> None:
    samples = 40_000
    generator = torch.Generator().manual_seed(3)

    def noise() -> Tensor:
        return torch.randn(samples, generator=generator, dtype=torch.float64)

    sigmas = [*geometric(40.0, 0.02, 150), 0.0]
    end = STOCHASTIC[name](gaussian(), MEAN + 40.0 * noise(), sigmas, noise_source=noise)
    variance = float((weights(STOCHASTIC[name], SPREAD, sigmas) ** 2).sum())
    assert variance == pytest.approx(SPREAD**2, rel=0.1)
    assert abs(float(end.mean()) - MEAN) < 4.5 * math.sqrt(variance / samples)
    assert abs(float(end.var()) - variance) < 4.5 * variance * math.sqrt(2 / samples)


def test_ddim_is_euler_and_ddpm_is_ancestral() -> None:
    sigmas = [*geometric(10.0, 0.1, 12), 0.0]

    def noise() -> NoiseSource:
        generator = torch.Generator().manual_seed(5)
        return lambda: torch.randn(X.shape, generator=generator, dtype=torch.float64)

    torch.testing.assert_close(ddim(gaussian(), X, sigmas), euler(gaussian(), X, sigmas))
    ancestral = euler_ancestral(gaussian(), X, sigmas, noise_source=noise())
    torch.testing.assert_close(ddpm(gaussian(), X, sigmas, noise_source=noise()), ancestral)
    torch.testing.assert_close(ddim(gaussian(), X, sigmas, eta=1.0, noise_source=noise()), ancestral)
    assert not torch.allclose(ancestral, euler(gaussian(), X, sigmas))


def test_dpmpp_2m_starts_and_ends_first_order() -> None:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.full_like(x, sigma)

    x = torch.tensor([5.0], dtype=torch.float64)
    first = 0.5 * 5.0 + 0.5 * 4.0
    second = 0.5 * first + 0.5 * (2.0 + 0.5 * (2.0 - 4.0))  # equal steps: clean + (clean - clean before) / 2
    assert float(dpmpp_2m(denoise, x, [4.0, 2.0])) == pytest.approx(first)
    assert float(dpmpp_2m(denoise, x, [4.0, 2.0, 1.0])) == pytest.approx(second)
    assert float(dpmpp_2m(denoise, x, [4.0, 2.0, 1.0, 0.0])) == 1.0  # the last clean estimate, not extended


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_noise_draws_and_watchers(name: str) -> None:
    row = SAMPLERS[name]
    evaluated: list[float] = []
    drawn: list[Tensor] = []
    seen: list[StepInfo] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        evaluated.append(sigma)
        return gaussian()(x, sigma)

    def noise() -> Tensor:
        drawn.append(torch.ones_like(X))
        return drawn[-1]

    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    start = X.clone()
    watched = row.function(denoise, start, sigmas, noise_source=noise, on_step=seen.append)
    assert len(evaluated) == 3 * row.evaluations_per_step + 1 + (name == "pndm")  # the step to 0 is one evaluation
    draws_per_step = 2 if name == "dpmpp_sde" else 1  # at the middle of the step too
    assert len(drawn) == (3 * draws_per_step if row.stochastic else 0)  # the step to 0 draws none
    assert [(info.step, info.sigma) for info in seen] == [(0, 8.0), (1, 4.0), (2, 2.0), (3, 1.0)]
    for info in seen:
        assert torch.equal(info.clean, gaussian()(info.x, info.sigma))
    assert torch.equal(seen[0].x, X) and torch.equal(start, X)  # the caller's tensor is left alone
    alone = row.function(gaussian(), X, sigmas, noise_source=lambda: torch.ones_like(X))
    assert torch.equal(watched, alone)


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_step_and_step_that_stays(name: str) -> None:
    function = SAMPLERS[name].function
    assert torch.allclose(function(gaussian(), X, [10.0, 0.0]), gaussian()(X, 10.0), rtol=0, atol=1e-12)
    end = function(gaussian(), X, [10.0, 1.0, 1.0], noise_source=lambda: torch.zeros_like(X))
    before = function(gaussian(), X, [10.0, 1.0], noise_source=lambda: torch.zeros_like(X))
    if name != "uni_pc":  # which, asked for an estimate where it stays, corrects the step that led there
        torch.testing.assert_close(end, before)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_x_keeps_its_dtype(name: str, dtype: torch.dtype) -> None:
    x = X.to(dtype)
    noise_source = lambda: torch.ones_like(x)  # noqa: E731
    assert SAMPLERS[name].function(gaussian(), x, [8.0, 1.0, 0.0], noise_source=noise_source).dtype == dtype


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [[1.0, 2.0, 0.0], [2.0, 0.0, 0.0], [math.inf, 1.0], [1.0, math.nan], [1.0, -1.0]])
def test_grids_that_do_not_fall_are_refused_before_any_work(name: str, sigmas: list[float]) -> None:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("evaluated")

    with pytest.raises(UserError, match="sigmas must fall"):
        SAMPLERS[name].function(denoise, X, sigmas, noise_source=lambda: X)


@pytest.mark.parametrize("sampler", [ddpm, euler_ancestral, STOCHASTIC["ddim eta 1"]])
def test_stochastic_samplers_ask_for_a_noise_source(sampler: Any) -> None:
    with pytest.raises(UserError, match="noise_source"):
        sampler(gaussian(), X, [8.0, 1.0, 0.0])


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
@pytest.mark.parametrize("sampler", [ddim, euler_ancestral])
def test_eta_outside_0_to_1_is_refused(sampler: Any, eta: float) -> None:
    with pytest.raises(UserError, match="eta"):
        sampler(gaussian(), X, [8.0, 0.0], eta=eta, noise_source=lambda: X)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("DPM++ 2M", dpmpp_2m),
        ("dpmpp_2m", dpmpp_2m),
        ("k_dpmpp_2m", dpmpp_2m),
        ("DPMSolverMultistepScheduler", dpmpp_2m),
        ("Euler a", euler_ancestral),
        ("euler A", euler_ancestral),
        ("euler_ancestral", euler_ancestral),
        ("k_euler_a", euler_ancestral),
        ("EulerAncestralDiscrete", euler_ancestral),
        ("Euler", euler),
        ("EulerDiscrete", euler),
        ("Heun", heun),
        ("HeunDiscrete", heun),
        ("DDIM", ddim),
        (" ddim ", ddim),
        ("DDPM", ddpm),
        ("DPM++ SDE", dpmpp_sde),
        ("DPM++ 2M SDE", dpmpp_2m_sde),
        ("dpmpp_2m_sde_gpu", dpmpp_2m_sde),
        ("DPM++ 2S a", dpmpp_2s_ancestral),
        ("dpmpp_2s_ancestral", dpmpp_2s_ancestral),
        ("sample_dpmpp_3m_sde", dpmpp_3m_sde),
        ("DPM++ 3M SDE", dpmpp_3m_sde),
        ("LMSDiscreteScheduler", lms),
        ("DPM2", dpm_2),
        ("KDPM2DiscreteScheduler", dpm_2),
        ("DPM2 a", dpm_2_ancestral),
        ("k_dpm_2_a", dpm_2_ancestral),
        ("PLMS", pndm),
        ("PNDMScheduler", pndm),
        ("UniPC", uni_pc),
        ("uni_pc_bh2", uni_pc),
        ("LCM", lcm),
    ],
)
def test_names_that_users_type(name: str, function: SamplerFunction) -> None:
    assert find_sampler(name).function is function


def test_every_row_is_found_by_each_of_its_names() -> None:
    for row in SAMPLERS.values():
        for name in (row.name, row.label, *row.aliases):
            assert find_sampler(name.upper()) is row


def test_unknown_sampler_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'DPM fast'.*ddpm, ddim, euler, euler_ancestral, heun, dpmpp_2m"):
        find_sampler("DPM fast")


@pytest.mark.parametrize("sampler", [dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_sde, dpmpp_2m_sde, dpmpp_3m_sde])
def test_at_eta_0_the_stochastic_ones_have_their_order(sampler: Any) -> None:
    top, x = 1e5, 1e4 * X  # so high that the first steps, of lower order in dpmpp_3m_sde, have little to do

    def wrong(steps: int) -> float:
        found = sampler(gaussian(), x, geometric(top, 0.1, steps), eta=0.0)
        return float((found - exact_end(x, top, 0.1)).abs().max())

    row = next(row for row in SAMPLERS.values() if row.function is sampler)
    assert math.log2(wrong(400) / wrong(800)) == pytest.approx(row.order, abs=0.15)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_lcm_with_a_consistency_function_draws_from_the_data_however_few_the_steps(steps: int) -> None:
    def consistent(x: Tensor, sigma: float) -> Tensor:
        return SPREAD / math.sqrt(SPREAD**2 + sigma**2) * x  # where the ODE through x ends

    basis, draws = torch.eye(steps + 1, dtype=torch.float64), count(1)
    sigmas = [*geometric(40.0, 0.5, steps)[:-1], 0.0]
    start = math.sqrt(SPREAD**2 + 40.0**2) * basis[0]
    end = lcm(consistent, start, sigmas, noise_source=lambda: basis[next(draws)])
    assert float((end**2).sum()) == pytest.approx(SPREAD**2, rel=1e-12)


@pytest.mark.parametrize("sampler", [euler, heun, dpm_2])
def test_churn_asks_for_noise_and_for_amounts_that_make_sense(sampler: Any) -> None:
    with pytest.raises(UserError, match="noise_source"):
        sampler(gaussian(), X, [8.0, 1.0, 0.0], s_churn=1.0)
    with pytest.raises(UserError, match="s_churn -1"):
        sampler(gaussian(), X, [8.0, 0.0], s_churn=-1.0)
    with pytest.raises(UserError, match="s_noise nan"):
        sampler(gaussian(), X, [8.0, 0.0], s_noise=math.nan)


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
@pytest.mark.parametrize("grid", ["uniform", "automatic"])
def test_a_start_in_pure_noise_does_not_magnify_the_networks_error(name: str, grid: str) -> None:
    """Cosine schedules fall from sigma 20291 to 8 in one of 12 steps; mixing two slopes made thousands of a tenth."""
    row, trained = find_sampler(name), NoiseSchedule(ScheduleConfig(kind="cosine", spacing="trailing"))
    sigmas = find_schedule(row.schedule if grid == "automatic" else grid).function(trained, 12)
    sigmas = [*sigmas[:-1], 0.0]
    exact = gaussian()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return exact(x, sigma) + (0.1 if sigma > 100 else 0.0)

    noise = torch.tensor([[[[-1.0, 0.0, 1.5]]]])
    ended = row.function(denoise, trained.start(noise, sigmas[0]), sigmas)
    assert torch.allclose(ended, MEAN + SPREAD * noise, atol=0.2)
