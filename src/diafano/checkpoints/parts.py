"""One part of a model to and from its folder in the diffusers format; a training stage hands on just such a folder.

Reading gives the network without weights and the weights beside it (`ReadPart`), so that a number format can be
chosen for all parts together before any memory is taken.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from diafano.checkpoints import configs
from diafano.checkpoints.reading import assign_weights, read_json, read_weights, without_prefix
from diafano.checkpoints.writing import MAX_SHARD_BYTES, write_json, write_weights
from diafano.engine.devices import DTYPES, on_meta
from diafano.errors import UserError
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.unet import UNet
from diafano.text_encoder.bert import BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder, strip_text_model_prefix
from diafano.text_encoder.tokenizer import Tokenizer

DIFFUSERS_STEM, TRANSFORMERS_STEM = "diffusion_pytorch_model", "model"

# Before diffusers 0.15 the autoencoder's attention had other names.
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(r"(?<=mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")

TextEncoder = CLIPTextEncoder | BERTTextEncoder
Network = TypeVar("Network", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class ReadPart(Generic[Network]):
    """A network on the meta device and the stored weights for it."""

    network: Network
    weights: Mapping[str, Tensor]
    folder: Path

    def filled(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Network:
        """The network with its weights, ready to run on `device` (the CPU if None). Raises UserError if they differ."""
        device = torch.device("cpu") if device is None else device
        assign_weights(self.network, self.weights, device=device, dtype=dtype, where=self.folder)
        return self.network


def read_unet(folder: Path, *, prefer_half: bool = False) -> ReadPart[UNet]:
    """A `unet` folder."""
    config = configs.read_unet_config(read_json(folder / "config.json"), f"{folder}/config.json")
    with on_meta():
        unet = UNet(config)
    return ReadPart(unet, read_weights(folder, DIFFUSERS_STEM, prefer_half=prefer_half), folder)


def read_autoencoder(folder: Path, *, prefer_half: bool = False) -> ReadPart[Autoencoder]:
    """A `vae` folder."""
    config = configs.read_autoencoder_config(read_json(folder / "config.json"), f"{folder}/config.json")
    with on_meta():
        autoencoder = Autoencoder(config)
    weights = read_weights(folder, DIFFUSERS_STEM, prefer_half=prefer_half)
    return ReadPart(autoencoder, {_new_attention_name(name): tensor for name, tensor in weights.items()}, folder)


def read_text_encoder(folder: Path, tokenizer: Tokenizer, *, prefer_half: bool = False) -> ReadPart[TextEncoder]:
    """A `text_encoder` folder: CLIP's or BERT's, as config.json says. The tokenizer knows the special tokens."""
    settings, where = read_json(folder / "config.json"), str(folder / "config.json")
    weights = read_weights(folder, TRANSFORMERS_STEM, prefer_half=prefer_half)
    tokens = (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token)
    architecture = settings.get("architectures") or [None]
    kind = settings.get("model_type", {"CLIPTextModel": "clip_text_model", "BertModel": "bert"}.get(architecture[0]))
    if kind == "clip_text_model":
        clip_config = configs.read_clip_config(settings, tokens, where)
        with on_meta():
            clip = CLIPTextEncoder(clip_config)
        names = strip_text_model_prefix(weights)
        return ReadPart(clip, {ours: weights[theirs] for theirs, ours in names.items()}, folder)
    if kind == "bert":
        weights = without_prefix(weights, "bert.")
        weights.pop("embeddings.position_ids", None)  # it only counts 0, 1, 2, ...
        pooler = any(name.startswith("pooler.") for name in weights)
        bert_config = configs.read_bert_config(settings, tokens, pooler, where)
        with on_meta():
            bert = BERTTextEncoder(bert_config)
        return ReadPart(bert, weights, folder)
    raise UserError(f"{where} describes a text encoder of the type {kind!r}: only clip_text_model and bert are known")


@dataclass(frozen=True)
class PartWriter:
    """Writes parts into their folders, weights converted to `dtype` (None: as they are), large ones in shards."""

    dtype: torch.dtype | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES

    def unet(self, unet: UNet, folder: Path, *, sample_size: int | list[int]) -> None:
        """`sample_size` is the latent's edge, or [height, width]."""
        self._write(unet, folder, DIFFUSERS_STEM, configs.unet_json(unet.config, sample_size))

    def autoencoder(
        self, autoencoder: Autoencoder, folder: Path, *, sample_size: int, latent_scale: float | None = None
    ) -> None:
        """`sample_size` is the picture's edge; `latent_scale` replaces the one that the network was made with."""
        config = autoencoder.config
        if latent_scale is not None:
            config = config.model_copy(update={"latent_scale": latent_scale})
        self._write(autoencoder, folder, DIFFUSERS_STEM, configs.autoencoder_json(config, sample_size))

    def text_encoder(self, encoder: TextEncoder, folder: Path) -> None:
        stored = next(encoder.parameters()).dtype if self.dtype is None else self.dtype
        dtype_name = next(name for name, value in DTYPES.items() if value == stored)
        if isinstance(encoder.config, CLIPTextConfig):
            # transformers 5 writes no prefix but reads it; everything older, and other programs, need it.
            config = configs.clip_json(encoder.config, dtype_name)
            self._write(encoder, folder, TRANSFORMERS_STEM, config, prefix="text_model.")
        else:
            self._write(encoder, folder, TRANSFORMERS_STEM, configs.bert_json(encoder.config, dtype_name))

    def _write(self, part: nn.Module, folder: Path, stem: str, config: Mapping[str, Any], prefix: str = "") -> None:
        weights = {prefix + name: tensor for name, tensor in part.state_dict().items()}
        write_weights(weights, folder, stem, dtype=self.dtype, max_shard_bytes=self.max_shard_bytes)
        write_json(folder / "config.json", config)


def _new_attention_name(name: str) -> str:
    return OLD_ATTENTION.sub(lambda match: OLD_ATTENTION_NAMES[match[0]], name)
