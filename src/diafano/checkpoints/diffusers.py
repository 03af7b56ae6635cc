"""The diffusers folder, in which models are kept: ``model_index.json`` and a folder a part.

    unet/ vae/                  config.json, diffusion_pytorch_model.safetensors
    text_encoder/               config.json, model.safetensors
    tokenizer/ scheduler/       vocabulary; scheduler_config.json
    diafano.json                the model's card (`ModelCard`), which other programs do not need

Both ways: what is written here opens in diffusers' StableDiffusionPipeline, and what that writes opens here.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diafano.checkpoints import configs
from diafano.checkpoints.parts import PartWriter, read_autoencoder, read_text_encoder, read_unet
from diafano.checkpoints.reading import read_json
from diafano.checkpoints.writing import MAX_SHARD_BYTES, folder_in_place, write_json
from diafano.engine.devices import find_device, find_dtype
from diafano.errors import UserError, checked
from diafano.noise.schedule import NoiseSchedule
from diafano.sampling.samplers.table import find_sampler
from diafano.stable_diffusion import ModelCard, StableDiffusion
from diafano.text_encoder.bert import BERTConfig
from diafano.text_encoder.tokenizer import Tokenizer

INDEX, CARD = "model_index.json", "diafano.json"
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


def load_folder(
    path: str | os.PathLike[str], device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> StableDiffusion:
    """The model in a diffusers folder. Raises UserError, naming it, for whatever is missing, unexpected or unknown."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no model folder {str(folder)!r}: check the name")
    check_index(read_json(folder / INDEX), folder)
    device = find_device(device)

    scheduler_settings = read_json(folder / "scheduler/scheduler_config.json")
    schedule_config = configs.read_schedule_config(scheduler_settings, f"{folder}/scheduler/scheduler_config.json")
    half = prefers_half(dtype, device)
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    read_text = read_text_encoder(folder / "text_encoder", tokenizer, prefer_half=half)
    read = read_unet(folder / "unet", prefer_half=half)
    read_vae = read_autoencoder(folder / "vae", prefer_half=half)

    networks: tuple[nn.Module, ...] = (read_text.network, read.network, read_vae.network)
    dtype = find_dtype(dtype, device, sum(tensor.numel() for part in networks for tensor in part.parameters()))
    text_encoder = read_text.filled(device, dtype)
    unet = read.filled(device, dtype)
    autoencoder = read_vae.filled(device, dtype)

    if (folder / CARD).is_file():
        card = _card(read_json(folder / CARD), folder)
    else:
        sample_size = read_json(folder / "unet/config.json").get("sample_size")
        card = _guessed_card(folder, sample_size, autoencoder.factor, scheduler_settings)
    return StableDiffusion(tokenizer, text_encoder, unet, autoencoder, NoiseSchedule(schedule_config), card)


def prefers_half(dtype: str | torch.dtype, device: torch.device) -> bool:
    """Whether the copy of the weights in half precision is read where there are two."""
    return dtype in (torch.float16, "float16", "fp16") or (dtype == "auto" and device.type != "cpu")


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
        _write_parts(model, folder, PartWriter(kept, max_shard_bytes))
        write_json(folder / CARD, model.card.model_dump(mode="json"))
        write_json(folder / INDEX, _index(model))


def _write_parts(model: StableDiffusion, folder: Path, writer: PartWriter) -> None:
    width, height = (edge // model.autoencoder.factor for edge in model.card.size)
    writer.unet(model.unet, folder / "unet", sample_size=width if width == height else [height, width])
    writer.autoencoder(model.autoencoder, folder / "vae", sample_size=max(model.card.size))
    writer.text_encoder(model.text_encoder, folder / "text_encoder")
    model.tokenizer.save(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler/scheduler_config.json", configs.schedule_json(model.schedule.config))


def _index(model: StableDiffusion) -> dict[str, Any]:
    bert = isinstance(model.text_encoder.config, BERTConfig)
    inpainting = model.unet.config.in_channels > model.unet.config.out_channels
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpainting else "StableDiffusionPipeline",
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


def check_index(index: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError unless model_index.json, which is in `folder`, names the parts of a Stable Diffusion 1 or 2."""
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
    with contextlib.suppress(UserError):  # a sampler that is not known here leaves the card's default
        fields["sampler"] = find_sampler(str(scheduler.get("_class_name")).removeprefix("Flax")).name
    if scheduler.get("use_karras_sigmas", False):
        fields["schedule"] = "karras"
    return checked(ModelCard, fields)
