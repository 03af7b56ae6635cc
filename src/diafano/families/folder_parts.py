"""The classes of parts that lie in folders of diffusers' format: how each is read, made and written.

A family says which of them its folders hold (`Family.folders`); `checkpoints.parts` reads and writes any.
"""

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from diafano.families import configs
from diafano.families.family import FolderPart, TextEncoder
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder, strip_text_model_prefix

DIFFUSERS_STEM: Final = "diffusion_pytorch_model"
"""What diffusers calls its files of weights."""
TRANSFORMERS_STEM: Final = "model"

# Before diffusers 0.15 the autoencoder's attention had other names.
OLD_ATTENTION_NAMES: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION: Final = re.compile(r"(?<=mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")


def _autoencoder_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {OLD_ATTENTION.sub(lambda match: OLD_ATTENTION_NAMES[match[0]], name): one for name, one in weights.items()}


# What a whole CLIP has besides its text encoder: eyes, and the heads where both meet.
REST_OF_CLIP: Final = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


def _clip_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = {name: one for name, one in weights.items() if not name.startswith(REST_OF_CLIP)}
    return {ours: own[theirs] for theirs, ours in strip_text_model_prefix(own).items()}


def _bert_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    ours.pop("embeddings.position_ids", None)  # it only counts 0, 1, 2, ...
    return ours


UNET: Final = FolderPart(
    library="diffusers",
    class_name="UNet2DConditionModel",
    config_class=UNetConfig,
    make=UNet,
    stem=DIFFUSERS_STEM,
    read=lambda json, found: configs.read_unet_config(json, found.where),
    write=lambda config, said: configs.unet_json(
        config, said.latent[0] if said.latent[0] == said.latent[1] else list(said.latent[::-1])
    ),
)
AUTOENCODER: Final = FolderPart(
    library="diffusers",
    class_name="AutoencoderKL",
    config_class=AutoencoderConfig,
    make=Autoencoder,
    stem=DIFFUSERS_STEM,
    read=lambda json, found: configs.read_autoencoder_config(json, found.where),
    write=lambda config, said: configs.autoencoder_json(config, max(said.size)),
    ours=_autoencoder_names,
)
CLIP: Final = FolderPart(
    library="transformers",
    class_name="CLIPTextModel",
    config_class=CLIPTextConfig,
    make=CLIPTextEncoder,
    read=lambda json, found: configs.read_clip_config(json, found.special_tokens, found.where),
    write=lambda config, said: configs.clip_json(config, said.dtype),
    stem=TRANSFORMERS_STEM,
    model_type="clip_text_model",
    tokenizer="CLIPTokenizer",
    prefix="text_model.",  # transformers 5 writes none but reads it; everything older, and other programs, need it
    ours=_clip_names,
)
BERT: Final = FolderPart(
    library="transformers",
    class_name="BertModel",
    config_class=BERTConfig,
    make=BERTTextEncoder,
    read=lambda json, found: configs.read_bert_config(
        json, found.special_tokens, any(name.startswith("pooler.") for name in found.weights), found.where
    ),
    write=lambda config, said: configs.bert_json(config, said.dtype),
    stem=TRANSFORMERS_STEM,
    model_type="bert",
    tokenizer="BertTokenizer",
    ours=_bert_names,
)
TEXT_ENCODERS: Final[tuple[FolderPart[TextEncoder], ...]] = (CLIP, BERT)
SCHEDULE: Final = FolderPart(  # read is any of diffusers' schedulers
    library="diffusers",
    class_name="DDIMScheduler",
    config_class=ScheduleConfig,
    make=NoiseSchedule,
    read=lambda json, found: configs.read_schedule_config(json, found.where),
    write=lambda config, said: configs.schedule_json(config),
    file="scheduler_config.json",
)
