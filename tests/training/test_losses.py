"""Training losses against their closed forms."""

import math

import pytest
import torch

from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.training.losses import (
    contrastive,
    divergence,
    edge_ratio,
    gradient_error,
    hinge_discriminator,
    min_snr_weight,
    texture_error,
)


def test_divergence_of_normal_distributions() -> None:
    assert divergence(torch.zeros(3), torch.zeros(3)).item() == 0.0
    mean, variance = 1.5, 0.25
    expected = 0.5 * (mean**2 + variance - 1 - math.log(variance))
    assert divergence(torch.tensor([mean]), torch.tensor([variance]).log()).item() == pytest.approx(expected)
    against = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, math.sqrt(variance)), torch.distributions.Normal(0.0, 1.0)
    )
    assert against.item() == pytest.approx(expected)


def test_gradient_error_sees_edges_and_not_brightness() -> None:
    flat = torch.zeros(1, 1, 4, 4)
    assert gradient_error(flat + 0.7, flat).item() == pytest.approx(0.0)
    edge = flat.clone()
    edge[..., 2:] = 1.0  # one of three horizontal differences is 1
    assert gradient_error(edge, flat).item() == pytest.approx(1 / 3)


def test_texture_error_sees_how_much_goes_on_and_not_where() -> None:
    stripes = torch.zeros(1, 1, 9, 9)
    stripes[..., ::2] = 1.0  # every horizontal difference is 1
    assert texture_error(stripes, stripes).item() == 0.0
    assert texture_error(1 - stripes, stripes).item() == pytest.approx(0.0)  # each stripe where the gap was
    average = torch.full_like(stripes, 0.5)  # nothing goes on
    assert texture_error(average, stripes).item() == pytest.approx(1.0)
    assert gradient_error(average, stripes).item() < gradient_error(1 - stripes, stripes).item()
    step = torch.zeros(1, 1, 9, 9)
    step[..., 4:] = 1.0  # between the third pixel and the fourth of one of two windows: a quarter of its differences
    assert texture_error(step, torch.zeros_like(step)).item() == pytest.approx(1 / 8)


def test_contrastive_loss_of_unrelated_and_of_perfect_pairs() -> None:
    same = torch.ones(8, 5)
    assert contrastive(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(8))
    apart = torch.eye(8)
    assert contrastive(apart, 3 * apart, torch.tensor(50.0)).item() < 1e-6
    assert contrastive(apart, apart.roll(1, 0), torch.tensor(50.0)).item() == pytest.approx(50.0, rel=1e-4)


@pytest.mark.parametrize("prediction", ["noise", "v", "clean"])
def test_min_snr_weights_the_same_error_of_the_clean_estimate_alike(prediction: str) -> None:
    """Whatever is predicted, a mistake in the clean latent must cost min(snr, gamma) times its square."""
    schedule = NoiseSchedule(ScheduleConfig.model_validate({"prediction": prediction}))
    timestep = torch.tensor([5, 300, 700, 990])
    snr = schedule.signal_to_noise(timestep)
    clean, noise = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    noisy = schedule.add_noise(clean, noise, timestep)
    mistaken = clean + 0.01
    # the noise that would make `noisy` from the mistaken clean latent
    signal = schedule.alphas_cumprod[timestep].sqrt().float()[:, None, None, None]
    implied = (noisy - signal * mistaken) / (1 - signal**2).sqrt()
    error = schedule.target(mistaken, implied, timestep) - schedule.target(clean, noise, timestep)
    cost = min_snr_weight(snr, 5.0, prediction) * error.square().mean(dim=(1, 2, 3))
    assert torch.allclose(cost, snr.clamp(max=5.0) * 0.01**2, rtol=2e-3)


def test_no_gamma_is_no_weighting() -> None:
    assert torch.equal(min_snr_weight(torch.tensor([0.1, 30.0]), 0.0, "v"), torch.ones(2))


def test_hinge_discriminator() -> None:
    assert hinge_discriminator(torch.tensor([2.0]), torch.tensor([-3.0])).item() == 0.0
    assert hinge_discriminator(torch.tensor([0.0]), torch.tensor([0.0])).item() == 1.0


def test_edge_ratio_is_one_for_the_same_and_less_for_a_blurred_picture() -> None:
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert edge_ratio(picture, picture) == pytest.approx(1.0)
    assert edge_ratio(torch.nn.functional.avg_pool2d(picture, 3, 1, 1), picture) < 0.5
