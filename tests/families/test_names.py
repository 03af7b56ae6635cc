"""Every name of the original single files, held against diffusers' own conversion, at full size and without weights."""

from dataclasses import replace

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle

from diafano.engine.devices import on_meta
from diafano.families import names
from diafano.families.family import Preset
from diafano.families.presets import PRESETS, build
from diafano.text_encoder.clip import CLIPTextConfig

TINY = Preset(
    "tiny",
    unet=PRESETS["sd1"].unet.model_copy(
        update={"widths": (32, 64), "layers": 1, "attention": (False, True), "heads": (8, 8), "text_width": 64}
    ),
    autoencoder=PRESETS["sd1"].autoencoder.model_copy(update={"widths": (32, 32, 64), "layers": 1}),
    text_encoder=CLIPTextConfig(vocabulary=49408, width=64, mlp_width=64, layers=2, heads=1),
)
PRESETS_TRIED = [PRESETS["sd1"], PRESETS["sd2"], TINY, replace(TINY, unet=TINY.unet.model_copy(update={"layers": 3}))]


@pytest.mark.parametrize("preset", PRESETS_TRIED, ids=lambda preset: preset.name)
def test_unet_names_are_those_of_diffusers_conversion(preset: Preset) -> None:
    with on_meta():
        ours = build(preset, device="meta").unet.state_dict()
    table = names.unet_table(preset.unet, ours)
    original = names.to_original(ours, table)
    config = {"layers_per_block": preset.unet.layers, "block_out_channels": preset.unet.widths}
    converted = oracle.convert_ldm_unet_checkpoint(dict(original), config)
    assert converted.keys() == ours.keys() and len(original) == len(ours)
    for name, stored in table.items():
        assert converted[name] is original[stored.name]


@pytest.mark.parametrize("preset", PRESETS_TRIED, ids=lambda preset: preset.name)
def test_autoencoder_names_are_those_of_diffusers_conversion(preset: Preset) -> None:
    with on_meta():
        ours = build(preset, device="meta").autoencoder.state_dict()
    original = names.to_original(ours, names.autoencoder_table(preset.autoencoder, ours))
    config = {key: preset.autoencoder.widths for key in ("down_block_types", "up_block_types")}
    assert len(original) == len(ours)
    converted = oracle.convert_ldm_vae_checkpoint(dict(original), config)
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


def test_autoencoder_values_go_where_diffusers_puts_them() -> None:
    ours = {name: torch.randn_like(tensor) for name, tensor in build(TINY).autoencoder.state_dict().items()}
    original = names.to_original(ours, names.autoencoder_table(TINY.autoencoder, ours))
    config = {key: TINY.autoencoder.widths for key in ("down_block_types", "up_block_types")}
    converted = oracle.convert_ldm_vae_checkpoint(dict(original), config)
    assert converted.keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(converted[name], tensor), name
    assert original["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (64, 64, 1, 1)


def test_clip_names_are_those_of_diffusers_conversion() -> None:
    ours = build(TINY).text_encoder.state_dict()
    original = names.to_original(ours, names.clip_table(ours))
    converted = oracle.convert_ldm_clip_checkpoint(dict(original))
    assert {name.removeprefix("text_model.") for name in converted} == ours.keys()
    assert "cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.q_proj.weight" in original


def test_open_clip_values_go_where_diffusers_puts_them() -> None:
    ours = {name: torch.randn_like(tensor) for name, tensor in build(TINY).text_encoder.state_dict().items()}
    original = names.to_original(ours, names.open_clip_table(ours, 2))

    class Wanted:
        class config:
            hidden_size = 64

    converted = oracle.convert_open_clip_checkpoint(Wanted, dict(original))
    assert {name.removeprefix("text_model.") for name in converted} == ours.keys()
    for name, tensor in converted.items():
        assert torch.equal(ours[name.removeprefix("text_model.")], tensor), name
    assert original["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"].shape == (192, 64)


@pytest.mark.parametrize("preset", [PRESETS["sd1"], PRESETS["sd2"]], ids=lambda preset: preset.name)
def test_known_names_of_the_published_files(preset: Preset) -> None:
    with on_meta():
        ours = build(preset, device="meta").unet.state_dict()
    original = names.to_original(ours, names.unet_table(preset.unet, ours))
    start = "model.diffusion_model."
    width = 1024 if preset.name == "sd2" else 768
    assert len(original) == 686
    assert original[f"{start}input_blocks.0.0.weight"].shape == (320, 4, 3, 3)
    assert original[f"{start}input_blocks.3.0.op.weight"].shape == (320, 320, 3, 3)
    assert original[f"{start}output_blocks.2.1.conv.weight"].shape == (1280, 1280, 3, 3)
    assert original[f"{start}output_blocks.5.2.conv.weight"].shape == (1280, 1280, 3, 3)
    assert original[f"{start}output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight"].shape == (320, width)
    assert original[f"{start}input_blocks.1.1.proj_in.weight"].ndim == (2 if preset.name == "sd2" else 4)


def test_what_goes_there_comes_back() -> None:
    parts = build(TINY)
    for module, table in (
        (parts.unet, names.unet_table(TINY.unet, parts.unet.state_dict())),
        (parts.autoencoder, names.autoencoder_table(TINY.autoencoder, parts.autoencoder.state_dict())),
        (parts.text_encoder, names.open_clip_table(parts.text_encoder.state_dict(), 2)),
    ):
        ours = module.state_dict()
        original = names.to_original(ours, table)
        assert all(torch.equal(stored.ours(original[stored.name]), ours[name]) for name, stored in table.items())


def test_averages_are_named_without_dots() -> None:
    assert names.ema_name("model.diffusion_model.input_blocks.0.0.weight") == (
        "model_ema.diffusion_modelinput_blocks00weight"
    )
