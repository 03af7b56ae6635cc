"""Each part at Stable Diffusion 1's and 2's true size gives what diffusers' and transformers' give, in float32.

Small networks are compared elsewhere; here are the true widths, depths and heads. One part at a time, and both sides
share one set of weights, so that 4 GB are enough. `benchmarks/parity.py` does the same for whole runs.
"""

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from diafano.engine.devices import on_meta
from diafano.families.family import Preset
from diafano.families.presets import PRESETS
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.unet import UNet
from diafano.text_encoder.clip import CLIPTextConfig as OurCLIPTextConfig
from diafano.text_encoder.clip import CLIPTextEncoder, strip_text_model_prefix

SD1, SD2 = PRESETS["sd1"], PRESETS["sd2"]
TOLERANCE = 1e-5
"""Of the output's largest value."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def memory_freed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    gc.collect()


@torch.no_grad()
def shaken(oracle: nn.Module) -> nn.Module:
    """Fresh networks have zero biases and unit norms, which would hide a bias left out or two norms swapped."""
    for parameter in oracle.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return oracle.eval()


def assert_close(made: Tensor, wanted: Tensor) -> None:
    assert made.shape == wanted.shape
    assert wanted.std() > 0
    assert (made - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize(
    ("preset", "theirs"),
    [
        (SD1, {"cross_attention_dim": 768, "attention_head_dim": 8}),
        (SD2, {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}),
    ],
    ids=["sd1", "sd2"],
)
@torch.no_grad()
def test_the_unet_at_full_size(preset: Preset, theirs: Any) -> None:
    width = theirs["cross_attention_dim"]
    theirs = shaken(UNet2DConditionModel(**theirs))
    with on_meta():
        ours = UNet(preset.unet)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    latent, timestep, text = torch.randn(2, 4, 16, 16), torch.tensor([981.0, 20.5]), torch.randn(2, 77, width)
    assert_close(ours.eval()(latent, timestep, text), theirs(latent, timestep, text).sample)


@torch.no_grad()
def test_the_autoencoder_at_full_size() -> None:
    theirs: Any = shaken(
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )
    with on_meta():
        ours: Any = Autoencoder(SD1.autoencoder)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    pixels, latent = torch.rand(1, 3, 128, 128) * 2 - 1, torch.randn(1, 4, 16, 16)
    wanted, made = theirs.encode(pixels).latent_dist, ours.eval().encode(pixels)
    assert_close(made.mean, wanted.mean * 0.18215)
    assert_close(made.logvar, wanted.logvar + 2 * math.log(0.18215))
    assert_close(ours.decode(latent), theirs.decode(latent / 0.18215).sample)


@pytest.mark.parametrize(
    ("preset", "theirs"),
    [
        (SD1, {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"}),
        (SD2, {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu"}),
    ],
    ids=["sd1", "sd2"],
)
@torch.no_grad()
def test_the_text_encoder_at_full_size(preset: Preset, theirs: Any) -> None:
    width = theirs["hidden_size"]
    theirs = shaken(
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                intermediate_size=4 * width,
                max_position_embeddings=77,
                bos_token_id=49406,
                eos_token_id=49407,
                **theirs,
            )
        )
    )
    assert isinstance(preset.text_encoder, OurCLIPTextConfig)
    with on_meta():
        ours = CLIPTextEncoder(preset.text_encoder)
    stored = theirs.state_dict()
    weights = {name: stored[old] for old, name in strip_text_model_prefix(stored).items()}
    ours.load_state_dict(weights, strict=True, assign=True)
    ids = torch.randint(0, 49406, (2, 77))
    ids[:, 0], ids[0, 9:], ids[1, 76] = 49406, 49407, 49407
    assert_close(ours.eval()(ids), theirs(ids).last_hidden_state)
