"""The autoencoder in bands gives what the plain one gives, and keeps less memory meanwhile."""

import pytest
import torch
from torch import nn

from diafano.engine import bands
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.tileable import tileable


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    """Levels of unequal widths, so that some residual blocks have a shortcut, and norms that change something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Autoencoder(AutoencoderConfig(widths=(8, 16, 16, 24), layers=2, groups=4)).double().eval()
        for part in made.modules():
            if isinstance(part, nn.GroupNorm):
                nn.init.normal_(part.weight, 1.0, 0.3)
                nn.init.normal_(part.bias, 0.2, 0.3)
    return made


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps are cut into many bands, attention into many parts."""
    monkeypatch.setattr(bands, "BAND_VALUES", 3000)
    monkeypatch.setattr(bands, "SCORES", 1000)


@pytest.mark.parametrize("axes", [None, "both", "x", "y"])
@pytest.mark.parametrize("largest_kept", [0, 2**30], ids=["twice computed", "kept"])
@torch.inference_mode()
def test_bands_give_the_plain_decoders_pixels(
    autoencoder: Autoencoder, axes: str | None, largest_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "LARGEST_KEPT", largest_kept)
    latent = torch.randn(2, 4, 7, 10, dtype=torch.float64)
    before = latent.clone()
    with tileable(axes):
        torch.testing.assert_close(bands.decode(autoencoder, latent), autoencoder.decode(latent), rtol=0, atol=1e-11)
    assert torch.equal(latent, before)


@pytest.mark.parametrize("axes", [None, "both"])
@torch.inference_mode()
def test_bands_give_the_plain_encoders_distribution(autoencoder: Autoencoder, axes: str | None) -> None:
    pixels = torch.rand(2, 3, 56, 80, dtype=torch.float64) * 2 - 1
    with tileable(axes):
        ours, plain = bands.encode(autoencoder, pixels), autoencoder.encode(pixels)
    torch.testing.assert_close(ours.mean, plain.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.logvar, plain.logvar, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_bands_without_attention_and_in_half_precision(autoencoder: Autoencoder) -> None:
    plain = Autoencoder(AutoencoderConfig(widths=(8, 16), layers=1, groups=4, middle_attention=False)).bfloat16()
    latent = torch.randn(1, 4, 12, 9).bfloat16()
    half, again = bands.decode(plain, latent), plain.decode(latent)
    exact = plain.float().decode(latent.float())
    # bfloat16 keeps 8 bits: bands may be off by as much as the plain network is, not by more.
    assert (half - exact).square().mean() < 1.5 * (again - exact).square().mean()


@torch.inference_mode()
def test_no_map_of_the_finest_level_is_kept_but_two(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is allocated while a picture is decoded, and still there, the largest sum."""
    monkeypatch.setattr(bands, "LARGEST_KEPT", 0)
    latent = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    map_bytes = 8 * (8 * 32) ** 2 * 8
    peaks = {}
    for name, decode in (("plain", autoencoder.decode), ("bands", lambda one: bands.decode(autoencoder, one))):
        with torch.profiler.profile(profile_memory=True) as profile:
            decode(latent)
        held = highest = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        peaks[name] = highest / map_bytes
    assert peaks["plain"] > 5
    assert peaks["bands"] < 3  # and what enters the level, half a map, and the bands
