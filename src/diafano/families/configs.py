"""Our configurations <-> the ``config.json`` files of diffusers and transformers.

Each part has three things: what must have one value here because the code has no other (`FIXED`), what does not
change the mathematics (`NEUTRAL`), and the fields that are translated. A key that is none of these, or a fixed one
with another value, is an error that names it: a setting that is silently ignored draws wrong pictures. A key that a
file leaves out has its library's default.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from diafano.errors import UserError, checked
from diafano.networks.autoencoder import AutoencoderConfig
from diafano.networks.unet import UNetConfig
from diafano.noise.schedule import ScheduleConfig
from diafano.text_encoder.bert import BERTConfig
from diafano.text_encoder.clip import CLIPTextConfig

Json = Mapping[str, Any]
Config = TypeVar("Config", bound=BaseModel)

DIFFUSERS_VERSION: Final = "0.21.0"
"""The version whose format is written. Below 0.9.0 diffusers takes small UNets for mistakes and resizes them."""

UNET_FIXED: Final[dict[str, Any]] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
}
UNET_FIXED_RARE: Final[dict[str, Any]] = {  # read, but not written: younger than the version that is written, or exotic
    "addition_embed_type": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "num_attention_heads": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
}
UNET_NEUTRAL: Final = (
    "sample_size",
    "upcast_attention",  # softmax is computed in float32 here anyway
    "addition_embed_type_num_heads",  # these three mean something only with embeddings that are fixed to None above
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)

CONTROLNET_FIXED: Final[dict[str, Any]] = {
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
HINT_WIDTHS: Final = "conditioning_embedding_out_channels"

AUTOENCODER_FIXED: Final[dict[str, Any]] = {"act_fn": "silu"}
AUTOENCODER_FIXED_RARE: Final[dict[str, Any]] = {
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
AUTOENCODER_NEUTRAL: Final = ("sample_size", "force_upcast")

# Every scheduler of diffusers has keys of its own for how it samples; those that change what was trained are these.
SCHEDULER_FIXED: Final[dict[str, Any]] = {"trained_betas": None, "thresholding": False}
BETA_SCHEDULES: Final = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}
LEADING_BY_DEFAULT: Final = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler")
PREDICTIONS: Final = {"noise": "epsilon", "v": "v_prediction", "clean": "sample"}

# transformers' files hold dozens of settings for generating text and for training, so unlike in diffusers' only those
# that change what the encoder computes are checked.
CLIP_FIXED: Final[dict[str, Any]] = {
    "quantization_config": None,
    "use_attention_mask": False,  # with it diffusers keeps the encoder from what pads a text
}
BERT_FIXED_RARE: Final[dict[str, Any]] = {"quantization_config": None}
BERT_FIXED: Final[dict[str, Any]] = {
    "hidden_act": "gelu",
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}


def read_unet_config(json: Json, where: str) -> UNetConfig:
    """UNet2DConditionModel's config."""
    _check_class(json, "UNet2DConditionModel", where)
    _check_fixed(json, UNET_FIXED | UNET_FIXED_RARE, where)
    down = json.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = json.get("up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    widths = tuple(json.get("block_out_channels", (320, 640, 1280, 1280)))
    attention = tuple(_either(kind, "CrossAttnDownBlock2D", "DownBlock2D", "down_block_types", where) for kind in down)
    attention_up = tuple(_either(kind, "CrossAttnUpBlock2D", "UpBlock2D", "up_block_types", where) for kind in up)
    if attention_up != attention[::-1]:
        raise UserError(f"{where} has up_block_types {list(up)}, which do not mirror its down_block_types {list(down)}")
    heads = json.get("attention_head_dim", 8)  # a misnomer that diffusers keeps: it is the number of heads
    translated = {
        "in_channels": json.get("in_channels", 4),
        "out_channels": json.get("out_channels", 4),
        "widths": widths,
        "layers": _one(json.get("layers_per_block", 2), "layers_per_block", where),
        "attention": attention,
        "heads": (heads,) * len(widths) if isinstance(heads, int) else tuple(heads),
        "text_width": _one(json.get("cross_attention_dim", 1280), "cross_attention_dim", where),
        "groups": json.get("norm_num_groups", 32),
        "linear_projection": json.get("use_linear_projection", False),
    }
    names = (
        "in_channels out_channels down_block_types up_block_types block_out_channels attention_head_dim"
        " layers_per_block cross_attention_dim norm_num_groups use_linear_projection"
    )
    _check_known(json, [*UNET_FIXED, *UNET_FIXED_RARE, *UNET_NEUTRAL, *names.split()], where)
    return _checked(UNetConfig, translated, where)


def read_controlnet_config(json: Json, where: str) -> tuple[UNetConfig, tuple[int, ...]]:
    """ControlNetModel's config: that of the UNet whose way down it copies, and the widths of its hint encoder."""
    _check_class(json, "ControlNetModel", where)
    _check_fixed(json, CONTROLNET_FIXED, where)
    down = json.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = [str(kind).replace("DownBlock", "UpBlock") for kind in reversed(down)]
    own = (*CONTROLNET_FIXED, HINT_WIDTHS)
    as_unet = {key: value for key, value in json.items() if key not in own} | {"up_block_types": up}
    config = read_unet_config(as_unet | {"_class_name": "UNet2DConditionModel"}, where)
    widths = tuple(json.get(HINT_WIDTHS, (16, 32, 96, 256)))
    return config.model_copy(update={"out_channels": config.in_channels}), widths


def unet_json(config: UNetConfig, sample_size: int | list[int]) -> dict[str, Any]:
    """`read_unet_config` reversed; `sample_size` is the latent's edge that diffusers draws by default."""
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.layers,
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in config.attention[::-1]],
        "attention_head_dim": list(config.heads) if len(set(config.heads)) > 1 else config.heads[0],
        "cross_attention_dim": config.text_width,
        "norm_num_groups": config.groups,
        "use_linear_projection": config.linear_projection,
        **UNET_FIXED,
    }


def read_autoencoder_config(json: Json, where: str) -> AutoencoderConfig:
    """AutoencoderKL's config."""
    _check_class(json, "AutoencoderKL", where)
    _check_fixed(json, AUTOENCODER_FIXED | AUTOENCODER_FIXED_RARE, where)
    widths = tuple(json.get("block_out_channels", (64,)))
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if list(json.get(key, [kind])) != [kind] * len(widths):
            raise UserError(f"{where} has {key} {json[key]}: only {kind} at each of the {len(widths)} levels is known")
    pictures = {json.get("in_channels", 3), json.get("out_channels", 3)}
    if pictures != {3}:
        raise UserError(f"{where} is for pictures of {max(pictures)} channels: only red, green and blue are known")
    translated = {
        "widths": widths,
        "layers": json.get("layers_per_block", 1),
        "latent_channels": json.get("latent_channels", 4),
        "groups": json.get("norm_num_groups", 32),
        "latent_scale": json.get("scaling_factor", 0.18215),
        "middle_attention": json.get("mid_block_add_attention", True),
    }
    names = (
        "in_channels out_channels down_block_types up_block_types block_out_channels layers_per_block latent_channels"
        " norm_num_groups scaling_factor mid_block_add_attention"
    )
    _check_known(json, [*AUTOENCODER_FIXED, *AUTOENCODER_FIXED_RARE, *AUTOENCODER_NEUTRAL, *names.split()], where)
    return _checked(AutoencoderConfig, translated, where)


def autoencoder_json(config: AutoencoderConfig, sample_size: int) -> dict[str, Any]:
    """`read_autoencoder_config` reversed; `sample_size` is the usual edge of a picture in pixels."""
    written = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": sample_size,
        "in_channels": config.picture_channels,
        "out_channels": config.picture_channels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(config.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.widths),
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.groups,
        "scaling_factor": config.latent_scale,
        **AUTOENCODER_FIXED,
    }
    # The key is younger than the version that is written, so models that need not say it stay readable by all.
    return written if config.middle_attention else {**written, "mid_block_add_attention": False}


def read_schedule_config(json: Json, where: str) -> ScheduleConfig:
    """Any diffusers scheduler's config: what the network was trained with, and how its timesteps are spread.

    Three keys are read as diffusers' StableDiffusionPipeline does, whatever the file says: steps_offset is 1,
    clip_sample is off (latents have no range to clip to), and set_alpha_to_one says where a DDIM run ends.
    """
    _check_fixed(json, SCHEDULER_FIXED, where)
    name = str(json.get("_class_name", "DDIMScheduler")).removeprefix("Flax")
    translated = {
        "steps": json.get("num_train_timesteps", 1000),
        "kind": _reversed(BETA_SCHEDULES, json.get("beta_schedule", "linear"), "beta_schedule", where),
        "beta_start": json.get("beta_start", 0.0001),
        "beta_end": json.get("beta_end", 0.02),
        "prediction": _reversed(PREDICTIONS, json.get("prediction_type", "epsilon"), "prediction_type", where),
        "spacing": json.get("timestep_spacing", "leading" if name in LEADING_BY_DEFAULT else "linspace"),
        "spacing_said": "timestep_spacing" in json,
        "steps_offset": 1,
        "zero_terminal_snr": json.get("rescale_betas_zero_snr", False),
        # PNDM's default is False, DDIM's True; other schedulers do not have it and end at zero
        "final_sigma": "zero" if json.get("set_alpha_to_one", name != "PNDMScheduler") else "first",
    }
    return _checked(ScheduleConfig, translated, where)


def schedule_json(config: ScheduleConfig) -> dict[str, Any]:
    """`read_schedule_config` reversed, as a DDIMScheduler."""
    if config.spacing == "leading" and config.steps_offset != 1:
        raise UserError(
            f"diffusers draws with steps_offset 1 alone, so {config.steps_offset} cannot be saved: set it to 1"
        )
    written = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": config.steps,
        "beta_schedule": BETA_SCHEDULES[config.kind],
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "prediction_type": PREDICTIONS[config.prediction],
        "timestep_spacing": config.spacing,
        "steps_offset": 1,
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "set_alpha_to_one": config.final_sigma == "zero",
        "clip_sample": False,
        **SCHEDULER_FIXED,
    }
    if not config.spacing_said and config.spacing == "leading":  # what DDIMScheduler has when nothing is said
        del written["timestep_spacing"]
    return written


def read_clip_config(json: Json, tokens: tuple[int, int, int], where: str) -> CLIPTextConfig:
    """CLIPTextModel's config. The ids of start, end and padding are the tokenizer's: in old files they are wrong."""
    _check_fixed(json, CLIP_FIXED, where)
    translated = {
        "vocabulary": json.get("vocab_size", 49408),
        "width": json.get("hidden_size", 512),
        "mlp_width": json.get("intermediate_size", 2048),
        "layers": json.get("num_hidden_layers", 12),
        "heads": json.get("num_attention_heads", 8),
        "positions": json.get("max_position_embeddings", 77),
        "activation": json.get("hidden_act", "quick_gelu"),
        "norm_eps": json.get("layer_norm_eps", 1e-5),
        **dict(zip(("start_token", "end_token", "pad_token"), tokens, strict=True)),
    }
    return _checked(CLIPTextConfig, translated, where)


def clip_json(config: CLIPTextConfig, dtype: str) -> dict[str, Any]:
    """`read_clip_config` reversed; `dtype` is the stored weights', such as ``float16``."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "projection_dim": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
        "bos_token_id": config.start_token,
        "eos_token_id": config.end_token,
        "pad_token_id": config.pad_token,
        "torch_dtype": dtype,
    }


def read_bert_config(json: Json, tokens: tuple[int, int, int], pooler: bool, where: str) -> BERTConfig:
    """BertModel's config; `pooler` is whether the weights have one."""
    _check_fixed(json, BERT_FIXED | BERT_FIXED_RARE, where)
    translated = {
        "vocabulary": json.get("vocab_size", 30522),
        "width": json.get("hidden_size", 768),
        "mlp_width": json.get("intermediate_size", 3072),
        "layers": json.get("num_hidden_layers", 12),
        "heads": json.get("num_attention_heads", 12),
        "positions": json.get("max_position_embeddings", 512),
        "token_types": json.get("type_vocab_size", 2),
        "norm_eps": json.get("layer_norm_eps", 1e-12),
        "pooler": pooler,
        **dict(zip(("start_token", "end_token", "pad_token"), tokens, strict=True)),
    }
    return _checked(BERTConfig, translated, where)


def bert_json(config: BERTConfig, dtype: str) -> dict[str, Any]:
    """`read_bert_config` reversed."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": config.pad_token,
        "use_attention_mask": True,  # diffusers' own: without it BERT would attend to padding there
        "torch_dtype": dtype,
        **BERT_FIXED,
    }


def _checked(kind: type[Config], fields: Mapping[str, object], where: str) -> Config:
    try:
        return checked(kind, fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_class(json: Json, name: str, where: str) -> None:
    if json.get("_class_name", name) != name:
        raise UserError(f"{where} describes a {json['_class_name']}: only {name} is known")


def _check_fixed(json: Json, fixed: Json, where: str) -> None:
    for key, value in fixed.items():
        if key in json and json[key] != value and not (value in (None, False) and json[key] in (None, False)):
            raise UserError(f"{where} has {key} = {json[key]!r}, which this program cannot do: only {value!r} is known")


def _check_known(json: Json, known: Iterable[str], where: str) -> None:
    """Keys beginning with an underscore are about the file; an unknown key that is None asks for nothing."""
    names = set(known)
    for key, value in json.items():
        if key not in names and not key.startswith("_") and value is not None:
            raise UserError(
                f"{where} has an unknown setting {key} = {value!r}: this program cannot draw with that model"
            )


def _one(value: Any, key: str, where: str) -> Any:
    """A number, or a list that repeats one."""
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise UserError(f"{where} has {key} = {value}, different at each level: only one value for all is known")
    return value[0]


def _either(kind: str, yes: str, no: str, key: str, where: str) -> bool:
    if kind not in (yes, no):
        raise UserError(f"{where} has {kind} among its {key}: only {yes} and {no} are known")
    return kind == yes


def _reversed(table: Mapping[str, str], value: object, key: str, where: str) -> str:
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise UserError(f"{where} has {key} = {value!r}: only {', '.join(table.values())} are known")
