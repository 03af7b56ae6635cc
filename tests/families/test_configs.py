"""Settings of diffusers and transformers <-> ours: what is translated, what is refused."""

import pytest

from diafano.errors import UserError
from diafano.families import configs
from diafano.families.presets import PRESETS
from diafano.networks.autoencoder import AutoencoderConfig
from diafano.networks.unet import UNetConfig
from diafano.noise.schedule import ScheduleConfig
from diafano.text_encoder.bert import BERTConfig
from diafano.text_encoder.clip import CLIPTextConfig

TOKENS = (49406, 49407, 49407)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_both_ways(name: str) -> None:
    preset = PRESETS[name]
    assert configs.read_unet_config(configs.unet_json(preset.unet, 64), "unet") == preset.unet
    written = configs.autoencoder_json(preset.autoencoder, 512)
    assert configs.read_autoencoder_config(written, "vae") == preset.autoencoder
    assert configs.read_schedule_config(configs.schedule_json(preset.schedule), "scheduler") == preset.schedule
    encoder = preset.text_encoder
    assert isinstance(encoder, CLIPTextConfig)
    tokens = (encoder.start_token, encoder.end_token, encoder.pad_token)
    assert configs.read_clip_config(configs.clip_json(encoder, "float32"), tokens, "text_encoder") == encoder


def test_bert_survives_both_ways() -> None:
    config = BERTConfig(width=32, heads=2, layers=1, mlp_width=64, vocabulary=200)
    tokens = (config.start_token, config.end_token, config.pad_token)
    assert configs.read_bert_config(configs.bert_json(config, "float32"), tokens, False, "bert") == config


def test_stable_diffusion_v1_as_it_was_published() -> None:
    unet = {  # unet/config.json of the first release, whose file leaves out what was not invented yet
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }
    assert configs.read_unet_config(unet, "unet") == UNetConfig()
    second = {
        **unet,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
        "dual_cross_attention": False,
        "num_class_embeds": None,
    }
    assert configs.read_unet_config(second, "unet") == PRESETS["sd2"].unet

    scheduler = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    read = configs.read_schedule_config(scheduler, "scheduler")
    assert read == ScheduleConfig(final_sigma="first", spacing_said=False)
    flax = {**scheduler, "_class_name": "FlaxPNDMScheduler"}  # as in a branch of v1.5
    assert configs.read_schedule_config(flax, "scheduler") == read
    assert "timestep_spacing" not in configs.schedule_json(read)


def test_tokens_come_from_the_tokenizer_because_old_files_have_them_wrong() -> None:
    config = configs.read_clip_config({"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}, TOKENS, "text_encoder")
    assert (config.start_token, config.end_token, config.pad_token) == TOKENS


def test_a_scheduler_without_a_spacing_has_that_of_its_class() -> None:
    def spacing(name: str) -> str:
        return configs.read_schedule_config({"_class_name": name}, "scheduler").spacing

    assert spacing("DDIMScheduler") == spacing("PNDMScheduler") == "leading"
    assert spacing("EulerDiscreteScheduler") == "linspace"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"class_embed_type": "projection"}, "class_embed_type = 'projection'"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"transformer_layers_per_block": [1, 2, 10]}, "transformer_layers_per_block"),
        ({"time_embedding_magic": 3}, "time_embedding_magic"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        ({"up_block_types": ["CrossAttnUpBlock2D"] * 4}, "up_block_types"),
        ({"layers_per_block": [1, 2, 2, 2]}, "layers_per_block"),
        ({"attention_head_dim": [8, 8]}, "heads"),
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"block_out_channels": [320.5, 640, 1280, 1280]}, "widths"),
    ],
)
def test_a_unet_that_this_program_cannot_be_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=r"unet/config\.json") as caught:
        configs.read_unet_config({**configs.unet_json(UNetConfig(), 64), **change}, "unet/config.json")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"shift_factor": 0.1}, {"use_quant_conv": False}, {"in_channels": 1}, {"latents_mean": [0.0] * 4}]
)
def test_an_autoencoder_of_another_kind_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change)) if "in_channels" not in change else "channels"):
        configs.read_autoencoder_config({**configs.autoencoder_json(AutoencoderConfig(), 512), **change}, "vae")


@pytest.mark.parametrize(
    "change",
    [{"beta_schedule": "sigmoid"}, {"prediction_type": "flow"}, {"trained_betas": [0.1]}, {"thresholding": True}],
)
def test_an_unknown_schedule_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        configs.read_schedule_config({**configs.schedule_json(ScheduleConfig()), **change}, "scheduler")


def test_a_schedule_that_diffusers_would_change_is_not_saved() -> None:
    with pytest.raises(UserError, match="steps_offset"):
        configs.schedule_json(ScheduleConfig(steps_offset=0))
    assert configs.schedule_json(ScheduleConfig(steps_offset=0, spacing="trailing"))["steps_offset"] == 1
