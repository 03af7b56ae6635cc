"""The UNet: agreement with diffusers' on the same random weights, in the shapes of v1 and v2, and its exact size."""

from typing import Any, cast

import pytest
import torch
from diffusers import UNet2DConditionModel

from diafano.networks.layers import sinusoidal_embedding
from diafano.networks.unet import UNet, UNetConfig

CONFIGS = {
    "v1": UNetConfig(widths=(32, 64, 64), attention=(True, True, False), heads=(4, 4, 4), text_width=48, groups=8),
    "v2": UNetConfig(
        widths=(32, 64, 64),
        attention=(True, True, False),
        heads=(1, 2, 4),
        text_width=40,
        groups=16,
        linear_projection=True,
    ),
    "embedded": UNetConfig(
        widths=(16, 32, 48), layers=1, attention=(False, True, True), heads=(2, 2, 3), text_width=24, groups=8
    ),
    "inpainting": UNetConfig(
        in_channels=9, widths=(16, 32), attention=(True, False), heads=(2, 2), text_width=24, groups=8
    ),
}


def oracle(config: UNetConfig) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        down_block_types=[("CrossAttnDownBlock2D" if attends else "DownBlock2D") for attends in config.attention],
        up_block_types=[("CrossAttnUpBlock2D" if attends else "UpBlock2D") for attends in config.attention[::-1]],
        cross_attention_dim=config.text_width,
        attention_head_dim=config.heads,  # the number of heads, by diffusers' old misnomer
        norm_num_groups=config.groups,
        use_linear_projection=config.linear_projection,
    ).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_unet_agrees_with_diffusers(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    theirs, ours = oracle(config), UNet(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latent, text = torch.randn(3, config.in_channels, 16, 8), torch.randn(3, 77, config.text_width)
    timestep = torch.tensor([0.0, 333.25, 999.0])
    with torch.no_grad():
        wanted, made = theirs(latent, timestep, text).sample, ours(latent, timestep, text)
    assert made.shape == (3, config.out_channels, 16, 8)
    assert (made - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(9, 13), (10, 7), (15, 8), (8, 27)])
def test_the_unet_agrees_with_diffusers_at_any_size(name: str, size: tuple[int, int]) -> None:
    """Maps of odd height or width are halved rounding up, and brought to their skip connections' size on the way up."""
    torch.manual_seed(0)
    config = CONFIGS[name]
    theirs, ours = oracle(config), UNet(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latent, text = torch.randn(1, config.in_channels, *size), torch.randn(1, 7, config.text_width)
    with torch.no_grad():
        wanted, made = theirs(latent, 500.0, text).sample, ours(latent, torch.tensor([500.0]), text)
    assert made.shape == (1, config.out_channels, *size)
    assert (made - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_channels_last_memory_gives_the_same() -> None:
    torch.manual_seed(0)
    model = UNet(CONFIGS["v1"]).eval()
    latent, text, timestep = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 48), torch.tensor([500.0])
    with torch.no_grad():
        plain = model(latent, timestep, text)
        last = cast(Any, model).to(memory_format=torch.channels_last)(
            latent.to(memory_format=torch.channels_last), timestep, text
        )
    assert (plain - last).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (UNetConfig(), 859_520_964),
        (UNetConfig(text_width=1024, heads=(5, 10, 20, 20), linear_projection=True), 865_910_724),
        (UNetConfig(in_channels=9), 859_535_364),
    ],
    ids=["sd1", "sd2", "sd1 inpainting"],
)
def test_full_presets_have_the_originals_parameters(config: UNetConfig, parameters: int) -> None:
    with torch.device("meta"):
        model = UNet(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_time_embedding_is_cosines_then_sines_at_falling_frequencies() -> None:
    embedded = sinusoidal_embedding(torch.tensor([0.0, 2.0]), 6)
    assert embedded[0].tolist() == [1, 1, 1, 0, 0, 0]
    frequencies = torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    expected = torch.cat([(2 * frequencies).cos(), (2 * frequencies).sin()])
    assert torch.allclose(embedded[1], expected)


def test_levels_that_do_not_agree_are_named() -> None:
    with pytest.raises(ValueError, match="must be of one length"):
        UNetConfig(widths=(32, 64))
