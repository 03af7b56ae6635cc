"""The autoencoder: shapes, the latent distribution, and agreement with diffusers' on the same random weights."""

import math

import pytest
import torch
from diffusers import AutoencoderKL

from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig, LatentDistribution

SMALL = AutoencoderConfig(widths=(16, 32, 32), layers=1, groups=8)


def oracle(config: AutoencoderConfig) -> AutoencoderKL:
    levels = len(config.widths)
    return AutoencoderKL(
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        mid_block_add_attention=config.middle_attention,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    ).eval()


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_encoder_and_decoder_agree_with_diffusers(layers: int, attention: bool) -> None:
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"layers": layers, "middle_attention": attention})
    theirs, ours = oracle(config), Autoencoder(config).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.rand(2, 3, 40, 24) * 2 - 1
    with torch.no_grad():
        wanted = theirs.encode(pixels).latent_dist
        made = ours.encode(pixels)
        latent = torch.randn(2, 4, 10, 6)
        decoded = theirs.decode(latent / config.latent_scale).sample
        pairs = [
            (made.mean, wanted.mean * config.latent_scale),
            (made.logvar, wanted.logvar + 2 * math.log(config.latent_scale)),
            (ours.decode(latent), decoded),
        ]
    for mine, true in pairs:
        assert (mine - true).abs().max() <= 1e-5 * true.abs().max()


@pytest.mark.parametrize(("width", "height"), [(8, 8), (24, 8), (40, 64)])
def test_any_multiple_of_the_factor_goes_through(width: int, height: int) -> None:
    model = Autoencoder(SMALL).eval()
    assert model.factor == 4
    with torch.no_grad():
        latent = model.encode(torch.zeros(1, 3, height, width)).mean
        assert latent.shape == (1, 4, height // 4, width // 4)
        assert model.decode(latent).shape == (1, 3, height, width)


def test_full_preset_has_the_originals_factor_and_parameters() -> None:
    with torch.device("meta"):
        model = Autoencoder(AutoencoderConfig())
    assert model.factor == 8
    assert sum(parameter.numel() for parameter in model.parameters()) == 83_653_863


def test_a_latent_distributions_draws_have_its_mean_and_spread() -> None:
    mean, logvar = torch.full((1, 4, 50, 50), 3.0), torch.full((1, 4, 50, 50), math.log(0.25))
    drawn = LatentDistribution(mean, logvar).sample(torch.Generator().manual_seed(1))
    standard_error = 0.5 / math.sqrt(drawn.numel())
    assert drawn.mean().item() == pytest.approx(3.0, abs=5 * standard_error)
    assert drawn.std().item() == pytest.approx(0.5, rel=5 / math.sqrt(2 * drawn.numel()))
    again = LatentDistribution(mean, logvar).sample(torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again)


def test_the_log_variance_is_kept_in_bounds() -> None:
    """An untrained or odd encoder must not give an infinite spread."""
    model = Autoencoder(SMALL)
    with torch.no_grad():
        assert model.quant_conv.bias is not None
        model.quant_conv.bias[4:] = 1000.0
        assert model.moments(torch.zeros(1, 3, 8, 8))[1].max().item() == 20.0
