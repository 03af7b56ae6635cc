"""What a LoRA's file says of its scales outside of its tensors: in its metadata, or in a configuration beside it.

    diffusers      metadata ``lora_adapter_metadata``: PEFT's configuration, "unet.lora_alpha" and so on
    PEFT           ``adapter_config.json`` beside ``adapter_model.safetensors``
    kohya          metadata ``ss_network_alpha``; nearly always the tensors say it as well, which goes before

A setting that changes what the weights mean is honoured, or refused by its name; so is one that is not known.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from diafano.checkpoints.reading import read_json
from diafano.errors import UserError

DIFFUSERS: Final = "lora_adapter_metadata"
PEFT_CONFIG, PEFT_STEM = "adapter_config.json", "adapter_model"
KINDS: Final = ("LORA", "LOHA", "LOKR")
"""PEFT's ``peft_type`` of what is read."""
INITIAL: Final = (True, False, None, "gaussian", "orthogonal", "eva")
"""``init_lora_weights`` that leaves the model's own weights as they are; PiSSA, OLoRA, LoftQ, CorDA change them."""
HONOURED: Final = {
    *("peft_type", "r", "lora_alpha", "alpha", "alpha_pattern", "rank_pattern", "use_rslora", "use_dora"),
    *("lora_bias", "bias", "init_lora_weights", "init_weights"),
}
NEUTRAL: Final = {
    # about training, or told by the tensors as well
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_config", "megatron_core", "peft_version"),
    *("revision", "task_type", "target_modules", "exclude_modules", "layers_pattern", "layers_to_transform"),
    *("lora_dropout", "module_dropout", "rank_dropout", "rank_dropout_scale", "qalora_group_size", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying", "use_effective_conv2d"),
    *("decompose_both", "decompose_factor"),
    "fan_in_fan_out",  # of other layers than a linear one or a convolution
}
NOT_A_PLAIN_NAME: Final = re.compile(r"[^\w.]")
SLOW: Final = re.compile(r"\)[*+{?]")
"""A repeated group: such patterns can take hours, and no program writes them."""


@dataclass(frozen=True)
class Settings:
    """Of one file."""

    scale: Callable[[str, int | None, bool], float] | None = None
    """A layer as the file spells it, its rank, whether it is a convolution of more than 1x1 -> alpha / rank.

    LoKr's whole factors have no rank (None). No function at all where nothing is said, which means 1."""
    whole_factors: bool = False
    """Whether that scale counts for LoKr's whole factors too, as in PEFT."""
    decomposed: bool = False
    """Whether a DoRA is said."""
    refused: list[str] = field(default_factory=list)
    """What is said that cannot be done, each as ``bias = 'all'``."""


def read_settings(path: Path, notes: Mapping[str, Any]) -> Settings:
    """What is said of the LoRA at `path`, whose metadata are `notes`."""
    if isinstance(said := notes.get(DIFFUSERS), str):
        return _of_peft(_by_part(_parsed(said, f"{path} has {DIFFUSERS}")), f"{path}, {DIFFUSERS}")
    if path.stem == PEFT_STEM and (path.parent / PEFT_CONFIG).is_file():
        return _of_peft({"": read_json(path.parent / PEFT_CONFIG)}, str(path.parent / PEFT_CONFIG))
    if "ss_network_alpha" in notes:
        return _of_kohya(notes, path)
    return Settings()


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{where} that is no JSON object, so its scale is not known: fetch it again")
    return found


def _by_part(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``unet.r`` -> under "unet." what PEFT calls "r"."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in said.items():
        part, dot, key = name.partition(".")
        parts.setdefault(part + dot if dot else "", {})[key if dot else name] = value
    return parts


def _of_peft(parts: Mapping[str, Mapping[str, Any]], where: str) -> Settings:
    refused: list[str] = []
    for part, said in parts.items():
        refused += [f"{part}{key} = {value!r}" for key, value in said.items() if not _can(key, value)]

    def scale(layer: str, rank: int | None, _: bool) -> float:
        part = next((part for part in sorted(parts, reverse=True) if layer.startswith(part)), None)
        if part is None:
            return 1.0
        said, name = parts[part], layer.removeprefix(part)
        if rank is None:
            rank = max(int(_number(_matching(said.get("rank_pattern"), name, said.get("r", 1), where), where)), 1)
        usual = said.get("lora_alpha", said.get("alpha", rank))
        alpha = _number(_matching(said.get("alpha_pattern"), name, usual, where), where)
        return alpha / (math.sqrt(rank) if said.get("use_rslora") else max(rank, 1))

    decomposed = any(bool(said.get("use_dora")) for said in parts.values())
    return Settings(scale, whole_factors=True, decomposed=decomposed, refused=refused)


def _can(key: str, value: Any) -> bool:
    """Whether the setting is honoured, means nothing here, or asks for nothing."""
    if key == "peft_type":
        return str(value).rpartition(".")[2].upper() in KINDS
    if key == "bias":
        return value in ("none", None)
    if key in ("init_lora_weights", "init_weights"):
        return value in INITIAL
    return key in HONOURED or key in NEUTRAL or not value


def _matching(pattern: Any, name: str, usual: Any, where: str) -> Any:
    """PEFT's rule: the first key that the layer's name ends in; keys may be regular expressions."""
    for key, value in pattern.items() if isinstance(pattern, Mapping) else ():
        if not NOT_A_PLAIN_NAME.search(key):
            if name == key or name.endswith(f".{key}"):
                return value
            continue
        try:
            found = None if SLOW.search(key) else re.compile(rf"(.*\.)?({key})$")
        except re.error:
            found = None
        if found is None:
            raise UserError(f"{where} has an alpha for the layers {key!r}, which cannot be told: fetch it again")
        if found.match(name):
            return value
    return usual


def _of_kohya(notes: Mapping[str, Any], path: Path) -> Settings:
    """Its trainer divides a convolution's `conv_alpha`, where there is one, by the convolution's own rank."""
    arguments = notes.get("ss_network_args")
    said = _parsed(arguments, f"{path} has ss_network_args") if isinstance(arguments, str) else {}
    usual = notes["ss_network_alpha"]
    if str(usual).strip() in ("", "None"):
        return Settings()

    def scale(_: str, rank: int | None, convolution: bool) -> float:
        alpha = said.get("conv_alpha", usual) if convolution else usual
        rank = rank or 1
        root = str(said.get("rs_lora", said.get("rank_stabilized", False))).lower() == "true"
        return _number(alpha, f"{path}'s metadata") / (math.sqrt(rank) if root else max(rank, 1))

    return Settings(scale)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where} has the alpha or rank {value!r}, which is no number: fetch it again")
    return number
