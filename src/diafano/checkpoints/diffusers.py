"""The diffusers folder, in which models are kept: ``model_index.json`` and a folder a part.

    unet/ vae/                  config.json, diffusion_pytorch_model.safetensors
    text_encoder/               config.json, model.safetensors
    tokenizer/ scheduler/       vocabulary; scheduler_config.json
    diafano.json                the model's card (`ModelCard`), which other programs do not need

Both ways: what is written here opens in diffusers' StableDiffusionPipeline, and what that writes opens here.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diafano.autoencoder import Autoencoder
from diafano.checkpoints import configs
from diafano.checkpoints.reading import assign_weights, read_json, read_weights, without_prefix
from diafano.checkpoints.writing import MAX_SHARD_BYTES, folder_in_place, write_json, write_weights
from diafano.devices import DTYPES, find_device, find_dtype, weightless
from diafano.errors import UserError
from diafano.noise import NoiseSchedule
from diafano.request import checked
from diafano.samplers import find_sampler
from diafano.stable_diffusion import ModelCard, StableDiffusion
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder, strip_text_model_prefix
from diafano.text_encoder.tokenizer import Tokenizer
from diafano.unet import UNet

INDEX, CARD = "model_index.json", "diafano.json"
DIFFUSERS_STEM, TRANSFORMERS_STEM = "diffusion_pytorch_model", "model"
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")

# Before diffusers 0.15 the autoencoder's attention had other names.
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(r"(?<=mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")


def load_folder(
    path: str | os.PathLike[str], device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> StableDiffusion:
    """The model in a diffusers folder. Raises UserError, naming it, for whatever is missing, unexpected or unknown."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no model folder {str(folder)!r}: check the name")
    _check_index(read_json(folder / INDEX), folder)
    device = find_device(device)

    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    unet_settings = read_json(folder / "unet/config.json")
    autoencoder_settings = read_json(folder / "vae/config.json")
    scheduler_settings = read_json(folder / "scheduler/scheduler_config.json")
    schedule_config = configs.read_schedule_config(scheduler_settings, f"{folder}/scheduler/scheduler_config.json")

    with weightless():
        unet = UNet(configs.read_unet_config(unet_settings, f"{folder}/unet/config.json"))
        autoencoder = Autoencoder(configs.read_autoencoder_config(autoencoder_settings, f"{folder}/vae/config.json"))

    half = dtype in (torch.float16, "float16", "fp16") or (dtype == "auto" and device.type != "cpu")
    text_encoder, text_weights = _read_text_encoder(folder / "text_encoder", tokenizer, half)
    parameters = sum(tensor.numel() for part in (unet, autoencoder, text_encoder) for tensor in part.parameters())
    dtype = find_dtype(dtype, device, parameters)

    def fill(part: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
        assign_weights(part, weights, device=device, dtype=dtype, where=folder / name)

    fill(text_encoder, text_weights, "text_encoder")
    fill(unet, read_weights(folder / "unet", DIFFUSERS_STEM, prefer_half=half), "unet")
    vae_weights = read_weights(folder / "vae", DIFFUSERS_STEM, prefer_half=half)
    fill(autoencoder, {_new_attention_name(name): tensor for name, tensor in vae_weights.items()}, "vae")

    if (folder / CARD).is_file():
        card = _card(read_json(folder / CARD), folder)
    else:
        card = _guessed_card(folder, unet_settings.get("sample_size"), autoencoder.factor, scheduler_settings)
    return StableDiffusion(tokenizer, text_encoder, unet, autoencoder, NoiseSchedule(schedule_config), card)


def save_folder(
    model: StableDiffusion,
    path: str | os.PathLike[str],
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the model as a diffusers folder, weights converted to `dtype` (None: as they are).

    The folder appears as a whole or not at all. An older model of that name is replaced; other files beside it stay.
    """
    kept = None if dtype is None else find_dtype(dtype, torch.device("cpu"), 0)
    with folder_in_place(Path(path), marker=INDEX) as folder:
        _write_parts(model, folder, kept, max_shard_bytes)
        write_json(folder / CARD, model.card.model_dump(mode="json"))
        write_json(folder / INDEX, _index(model))


def _read_text_encoder(
    folder: Path, tokenizer: Tokenizer, half: bool
) -> tuple[CLIPTextEncoder | BERTTextEncoder, dict[str, Tensor]]:
    """CLIP's or BERT's, as config.json says, still without weights; and the weights under its own names."""
    settings, where = read_json(folder / "config.json"), str(folder / "config.json")
    weights = read_weights(folder, TRANSFORMERS_STEM, prefer_half=half)
    tokens = (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token)
    architecture = settings.get("architectures") or [None]
    kind = settings.get("model_type", {"CLIPTextModel": "clip_text_model", "BertModel": "bert"}.get(architecture[0]))
    encoder: CLIPTextEncoder | BERTTextEncoder
    if kind == "clip_text_model":
        clip_config = configs.read_clip_config(settings, tokens, where)
        with weightless():
            encoder = CLIPTextEncoder(clip_config)
        names = strip_text_model_prefix(weights)
        return encoder, {ours: weights[theirs] for theirs, ours in names.items()}
    if kind == "bert":
        weights = without_prefix(weights, "bert.")
        weights.pop("embeddings.position_ids", None)  # it only counts 0, 1, 2, ...
        bert_config = configs.read_bert_config(
            settings, tokens, any(name.startswith("pooler.") for name in weights), where
        )
        with weightless():
            encoder = BERTTextEncoder(bert_config)
        return encoder, weights
    raise UserError(f"{where} describes a text encoder of the type {kind!r}: only clip_text_model and bert are known")


def _write_parts(model: StableDiffusion, folder: Path, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    def write(part: nn.Module, name: str, stem: str, prefix: str, config: Mapping[str, Any]) -> None:
        weights = {prefix + key: tensor for key, tensor in part.state_dict().items()}
        write_weights(weights, folder / name, stem, dtype=dtype, max_shard_bytes=max_shard_bytes)
        write_json(folder / name / "config.json", config)

    width, height = (edge // model.autoencoder.factor for edge in model.card.size)
    unet_config = configs.unet_json(model.unet.config, width if width == height else [height, width])
    autoencoder_config = configs.autoencoder_json(model.autoencoder.config, max(model.card.size))
    write(model.unet, "unet", DIFFUSERS_STEM, "", unet_config)
    write(model.autoencoder, "vae", DIFFUSERS_STEM, "", autoencoder_config)

    stored = next(model.text_encoder.parameters()).dtype if dtype is None else dtype
    dtype_name = next(name for name, value in DTYPES.items() if value == stored)
    encoder = model.text_encoder
    if isinstance(encoder.config, CLIPTextConfig):
        # transformers 5 writes no prefix but reads it; everything older, and other programs, need it.
        prefix, text_config = "text_model.", configs.clip_json(encoder.config, dtype_name)
    else:
        prefix, text_config = "", configs.bert_json(encoder.config, dtype_name)
    write(encoder, "text_encoder", TRANSFORMERS_STEM, prefix, text_config)

    model.tokenizer.save(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler/scheduler_config.json", configs.schedule_json(model.schedule.config))


def _index(model: StableDiffusion) -> dict[str, Any]:
    bert = isinstance(model.text_encoder.config, BERTConfig)
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": configs.DIFFUSERS_VERSION,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "BertModel" if bert else "CLIPTextModel"],
        "tokenizer": ["transformers", "BertTokenizer" if bert else "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _check_index(index: Mapping[str, Any], folder: Path) -> None:
    if "text_encoder_2" in index or "transformer" in index:
        raise UserError(
            f"{folder} holds a {index.get('_class_name')}: only the kind of Stable Diffusion 1 and 2 is known"
        )
    for part in PARTS:
        if not (isinstance(index.get(part), list) and index[part] and index[part][-1] is not None):
            raise UserError(f"{folder / INDEX} names no {part}: the model is incomplete, fetch it again")


def _card(settings: Mapping[str, Any], folder: Path) -> ModelCard:
    try:
        return checked(ModelCard, settings)
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}") from None


def _guessed_card(folder: Path, sample_size: Any, factor: int, scheduler: Mapping[str, Any]) -> ModelCard:
    """A card for a folder that another program wrote: its name, its size, and the sampler its scheduler is like."""
    edges = sample_size if isinstance(sample_size, list | tuple) else [sample_size, sample_size]
    fields: dict[str, Any] = {"name": folder.resolve().name}
    if all(isinstance(edge, int) for edge in edges):
        fields["size"] = (edges[1] * factor, edges[0] * factor)
    try:
        fields["sampler"] = find_sampler(str(scheduler.get("_class_name"))).name
    except UserError:  # a sampler that is not known here
        fields["sampler"] = "ddim"
    if scheduler.get("use_karras_sigmas", False):
        fields["schedule"] = "karras"
    return checked(ModelCard, fields)


def _new_attention_name(name: str) -> str:
    return OLD_ATTENTION.sub(lambda match: OLD_ATTENTION_NAMES[match[0]], name)
