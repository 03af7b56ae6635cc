"""Denoiser and guidance: three predictions of one model agree, and guidance evaluates no more than it must."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.guidance import guided

MEAN, SPREAD = 0.7, 0.5
"""The data of the analytic model: every element is N(MEAN, SPREAD^2)."""


def exact_clean(x: Tensor, sigma: float) -> Tensor:
    """E[clean | x] for that data."""
    return MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - MEAN)


def gaussian_network(schedule: NoiseSchedule) -> Any:
    """What a perfect network answers in the schedule's prediction, from what the network sees."""

    def network(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        sigma = schedule.sigma_of(float(timestep[0]))
        kept = 1 / (1 + sigma**2)  # alphas_cumprod
        x = latent / math.sqrt(kept)
        clean = exact_clean(x, sigma)
        noise = (x - clean) / sigma
        velocity = math.sqrt(kept) * noise - math.sqrt(1 - kept) * clean
        return {"noise": noise, "v": velocity, "clean": clean}[schedule.config.prediction]

    return network


class Recorder:
    """A network that remembers what it was given and answers with a picture's mean text."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, latent: Tensor, timestep: Tensor, text: Conditioning) -> Tensor:
        self.calls.append((latent, timestep, text.tokens))
        return text.tokens.mean(dim=(1, 2)).reshape(-1, 1, 1, 1).expand_as(latent)


CLEAN = NoiseSchedule(ScheduleConfig(prediction="clean"))
X = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TEXT = torch.zeros(2, 77, 8, dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["noise", "v", "clean"])
@pytest.mark.parametrize("kind", ["scaled_linear", "cosine"])
@pytest.mark.parametrize("timestep", [0, 1, 500, 960])
def test_every_prediction_gives_the_exact_clean_estimate(prediction: Any, kind: Any, timestep: Any) -> None:
    schedule = NoiseSchedule(ScheduleConfig(prediction=prediction, kind=kind))
    sigma = schedule.sigma_of(timestep)
    x = X * math.sqrt(1 + sigma**2)
    clean = Denoiser(gaussian_network(schedule), schedule)(x, sigma, TEXT)
    torch.testing.assert_close(clean, exact_clean(x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["noise", "v", "clean"])
def test_between_trained_timesteps_too(prediction: Any) -> None:
    schedule = NoiseSchedule(ScheduleConfig(prediction=prediction))
    clean = Denoiser(gaussian_network(schedule), schedule)(X, 1.2345, TEXT)
    torch.testing.assert_close(clean, exact_clean(X, 1.2345), rtol=1e-4, atol=1e-4)  # the timestep is a float32


def test_the_network_sees_unit_variance_at_the_trained_timestep() -> None:
    network = Recorder()
    sigma = CLEAN.sigma_of(321)
    Denoiser(network, CLEAN)(X * math.sqrt(1 + sigma**2), sigma, TEXT)
    latent, timestep, text = network.calls[0]
    torch.testing.assert_close(latent, X)
    assert timestep.tolist() == [321.0, 321.0] and timestep.dtype == torch.float32
    assert text is TEXT


def test_the_network_computes_in_its_dtype_and_x_keeps_its_own() -> None:
    network = Recorder()
    schedule = NoiseSchedule()
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    clean = Denoiser(network, schedule, dtype=torch.bfloat16)(x, 0.5, torch.zeros(1, 77, 8))
    latent, timestep, text = network.calls[0]
    assert latent.dtype == torch.bfloat16 and text.dtype == torch.bfloat16
    assert timestep.dtype == torch.float32  # bfloat16 cannot tell timestep 981 from 983
    assert clean.dtype == torch.float32
    torch.testing.assert_close(clean, x, rtol=0, atol=0)  # this network predicts no noise: x passes unrounded


POSITIVE = torch.full((2, 77, 8), 3.0, dtype=torch.float64)
NEGATIVE = torch.full((2, 77, 8), 1.0, dtype=torch.float64)


@pytest.mark.parametrize(("guidance", "expected"), [(7.5, 1 + 7.5 * 2), (0.5, 2.0), (-1.0, -1.0)])
def test_guidance_is_one_batch_negative_first(guidance: float, expected: float) -> None:
    network = Recorder()
    clean = guided(Denoiser(network, CLEAN), POSITIVE, NEGATIVE, guidance)(X, 1.0)
    torch.testing.assert_close(clean, torch.full_like(X, expected))
    ((latent, timestep, text),) = network.calls
    assert latent.shape == (4, 4, 3, 3) and timestep.shape == (4,)
    torch.testing.assert_close(latent[:2], latent[2:])
    assert torch.equal(text, torch.cat([NEGATIVE, POSITIVE]))


@pytest.mark.parametrize(("guidance", "expected"), [(1.0, 3.0), (0.0, 1.0)])
def test_guidance_1_and_0_evaluate_one_text_once(guidance: float, expected: float) -> None:
    network = Recorder()
    clean = guided(Denoiser(network, CLEAN), POSITIVE, NEGATIVE, guidance)(X, 1.0)
    torch.testing.assert_close(clean, torch.full_like(X, expected))
    assert [len(latent) for latent, _, _ in network.calls] == [2]


@pytest.mark.parametrize("prediction", ["noise", "v", "clean"])
def test_mixing_clean_estimates_is_mixing_predictions(prediction: Any) -> None:
    schedule = NoiseSchedule(ScheduleConfig(prediction=prediction))
    denoiser = Denoiser(Recorder(), schedule)
    mixed = Denoiser(lambda latent, timestep, text: torch.full_like(latent, 1 + 7.5 * 2), schedule)
    torch.testing.assert_close(guided(denoiser, POSITIVE, NEGATIVE, 7.5)(X, 2.0), mixed(X, 2.0, TEXT))


def test_one_negative_serves_the_whole_batch() -> None:
    network = Recorder()
    guided(Denoiser(network, CLEAN), POSITIVE, NEGATIVE[:1], 2.0)(X, 1.0)
    assert torch.equal(network.calls[0][2], torch.cat([NEGATIVE, POSITIVE]))


def test_guidance_1_needs_no_negative() -> None:
    clean = guided(Denoiser(Recorder(), CLEAN), POSITIVE, None, 1.0)(X, 1.0)
    torch.testing.assert_close(clean, torch.full_like(X, 3.0))


@pytest.mark.parametrize(
    ("negative", "guidance", "message"),
    [
        (NEGATIVE, math.nan, "guidance nan"),
        (NEGATIVE, math.inf, "guidance inf"),
        (None, 7.5, "needs a negative"),
        (NEGATIVE[:, :50], 7.5, "same number of tokens"),
        (NEGATIVE.repeat(2, 1, 1), 7.5, "do not fit"),
    ],
)
def test_guidance_refuses(negative: Tensor | None, guidance: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        guided(Denoiser(Recorder(), CLEAN), POSITIVE, negative, guidance)
