"""Our names <-> the names in an original single file (CompVis' and Stability's), as tables that work both ways.

Ours are diffusers' and transformers'. A table says for each of our tensors where the original keeps it (`Stored`).
Most are renamed only; two kinds change their form as well:

    OpenCLIP's attention     one tensor in_proj (3 * width, ...) there, three tensors here
    autoencoder's attention  1x1 convolutions (c, c, 1, 1) there, linear layers (c, c) here
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diafano.networks.autoencoder import AutoencoderConfig
from diafano.networks.unet import UNetConfig

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
TEXT = "cond_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
CLIP_UNPREFIXED = "cond_stage_model.transformer."
"""What some merging programs make of `CLIP`."""
EMA = "model_ema."

# Inside a module: ours -> the original's.
UNET_LEAVES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
AUTOENCODER_LEAVES = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP_LEAVES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
AUTOENCODER_CONVOLUTIONS = ("to_q", "to_k", "to_v", "to_out.0")

# Modules that are always there: ours -> the original's.
UNET_MODULES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
AUTOENCODER_MODULES = {
    "conv_in": "conv_in",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}


@dataclass(frozen=True)
class Stored:
    """Where an original file keeps one of our tensors."""

    name: str
    third: int | None = None
    """Our tensor is this third of the stored one's rows: 0, 1, 2 for query, key, value."""
    convolution: bool = False
    """Stored as a 1x1 convolution."""

    def ours(self, stored: Tensor) -> Tensor:
        """The stored tensor in our form, as a view. Programs that wrote a linear layer after all are understood."""
        if self.third is not None and stored.shape[0] % 3 == 0:
            rows = stored.shape[0] // 3
            return stored[self.third * rows : (self.third + 1) * rows]
        if self.convolution and stored.ndim > 2 and set(stored.shape[2:]) == {1}:
            return stored.flatten(1)  # (c, c, 1, 1), or (c, c, 1) of some, -> (c, c)
        return stored


Table = dict[str, Stored]


class UNetShape(NamedTuple):
    """What of a UNet's configuration its names follow from."""

    widths: Sequence[int]
    layers: int
    attention: Sequence[bool]


def original_modules(modules: Sequence[str]) -> dict[str, str]:
    """All of our UNet's modules that have weights -> the original's names, without the prefix of a checkpoint."""
    counts = [re.match(r"down_blocks\.(\d+)\.resnets\.(\d+)\.", name) for name in modules]
    levels = {(int(found[1]), int(found[2])) for found in counts if found is not None}
    widths = range(1 + max(level for level, _ in levels))
    attention = [any(name.startswith(f"down_blocks.{level}.attentions.") for name in modules) for level in widths]
    shape = UNetShape(widths, 1 + max(block for _, block in levels), attention)
    table = unet_table(shape, [f"{name}.weight" for name in modules])
    return {
        ours.removesuffix(".weight"): stored.name.removeprefix(UNET).removesuffix(".weight")
        for ours, stored in table.items()
    }


def unet_table(config: UNetConfig | UNetShape, names: Iterable[str]) -> Table:
    """Our UNet's tensors `names` -> where the original keeps them."""
    modules = dict(UNET_MODULES)
    levels, block = len(config.widths), 1  # the original counts blocks through all levels; its first is conv_in
    for level in range(levels):
        for i in range(config.layers):
            modules[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{block}.0"
            modules[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{block}.1"
            block += 1
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
        block += level < levels - 1
    block = 0
    for up, level in enumerate(reversed(range(levels))):
        for i in range(config.layers + 1):
            modules[f"up_blocks.{up}.resnets.{i}"] = f"output_blocks.{block}.0"
            modules[f"up_blocks.{up}.attentions.{i}"] = f"output_blocks.{block}.1"
            block += 1
        # the upsampling convolution comes last in the level's last block, after the transformer if there is one
        place = 2 if config.attention[level] else 1
        modules[f"up_blocks.{up}.upsamplers.0.conv"] = f"output_blocks.{block - 1}.{place}.conv"
    return {name: Stored(UNET + _renamed(name, modules, UNET_LEAVES)) for name in names}


def autoencoder_table(config: AutoencoderConfig, names: Iterable[str]) -> Table:
    """Our autoencoder's tensors `names` -> where the original keeps them. The original counts `up` from the finest."""
    modules = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        modules |= {f"{side}.{ours}": f"{side}.{theirs}" for ours, theirs in AUTOENCODER_MODULES.items()}
    for level in range(len(config.widths)):
        up = len(config.widths) - 1 - level
        for i in range(config.layers + 1):
            modules[f"encoder.down_blocks.{level}.resnets.{i}"] = f"encoder.down.{level}.block.{i}"
            modules[f"decoder.up_blocks.{up}.resnets.{i}"] = f"decoder.up.{level}.block.{i}"
        modules[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        modules[f"decoder.up_blocks.{up}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    return {
        name: Stored(
            AUTOENCODER + _renamed(name, modules, AUTOENCODER_LEAVES),
            convolution=name.endswith(tuple(f".{leaf}.weight" for leaf in AUTOENCODER_CONVOLUTIONS)),
        )
        for name in names
    }


def clip_table(names: Iterable[str], prefix: str = CLIP) -> Table:
    """Our CLIP's tensors `names` -> where a 1.x file keeps them."""
    return {name: Stored(prefix + name) for name in names}


def open_clip_table(names: Iterable[str], layers: int) -> Table:
    """Our CLIP's tensors `names` -> where a 2.x file keeps them: OpenCLIP's names, query, key and value in one."""
    modules = {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final"}
    modules |= {f"encoder.layers.{i}": f"transformer.resblocks.{i}" for i in range(layers)}
    table: Table = {}
    for name in names:
        module, _, parameter = name.rpartition(".")
        layer, _, leaf = module.partition(".self_attn.")
        if name == "embeddings.position_embedding.weight":
            table[name] = Stored(f"{OPEN_CLIP}positional_embedding")
        elif f"self_attn.{leaf}" in OPEN_CLIP_THIRDS:
            fused = f"{OPEN_CLIP}{modules[layer]}.attn.in_proj_{parameter}"
            table[name] = Stored(fused, third=OPEN_CLIP_THIRDS[f"self_attn.{leaf}"])
        else:
            table[name] = Stored(OPEN_CLIP + _renamed(name, modules, OPEN_CLIP_LEAVES))
    return table


def ema_name(name: str) -> str:
    """Where the running average of a UNet's tensor is: ``model_ema.diffusion_modelinput_blocks00weight``."""
    return EMA + name.removeprefix("model.").replace(".", "")


def to_original(weights: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our tensors under the original's names and in its form: the reverse of `Stored.ours`."""
    written: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in weights.items():
        stored = table[name]
        if stored.third is not None:
            thirds.setdefault(stored.name, {})[stored.third] = tensor
        else:
            written[stored.name] = tensor[:, :, None, None] if stored.convolution else tensor
    fused = {name: torch.cat([parts[third] for third in range(3)]) for name, parts in thirds.items()}
    return written | fused


def _renamed(name: str, modules: Mapping[str, str], leaves: Mapping[str, str]) -> str:
    """The longest module that is in the table is renamed, then what is inside it."""
    module, _, parameter = name.rpartition(".")
    inside: list[str] = []
    while module not in modules:
        module, _, last = module.rpartition(".")
        inside.insert(0, last)
        if not module:
            raise KeyError(name)  # the tables are complete for every configuration
    leaf = ".".join(inside)
    return ".".join(part for part in (modules[module], leaves.get(leaf, leaf), parameter) if part)
