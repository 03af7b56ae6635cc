"""Upscalers from files: ESRGAN's and Real-ESRGAN's networks, whose shape is read off the tensors.

RRDBNet             RealESRGAN_x4plus.pth, 4x-UltraSharp.pth, ESRGAN_4x.pth; by 1, 2, 4, 8, 16; `networks.rrdb`
SRVGGNetCompact     realesr-general-x4v3.pth, realesr-animevideov3.pth; `networks.compact`
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from diafano.checkpoints.addon_files import hash_of
from diafano.checkpoints.differences import compare
from diafano.checkpoints.opening import is_file
from diafano.checkpoints.reading import assign_weights, listed, read_with_notes
from diafano.checkpoints.upscaler_names import WRAPPERS, bare, other_network, rrdb_names
from diafano.checkpoints.writing import save_tensors, storable
from diafano.engine.devices import DTYPES, find_device, find_dtype, on_meta
from diafano.engine.upscaler import NetworkUpscaler
from diafano.errors import UserError
from diafano.families.strangers import is_instead
from diafano.files import whole_file
from diafano.networks.compact import Compact, CompactConfig
from diafano.networks.enlarging import EnlargingNetwork
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig
from diafano.pictures.upscaling import UPSCALERS, Upscaler, key_of

HASH_DIGITS = 10
KNOWN = "ESRGAN's RRDBNet and Real-ESRGAN's SRVGGNetCompact"
METADATA_NAME = "name"
"""Under which a file may say what its upscaler is called, as those do that are trained here."""


def load_upscaler(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
) -> Upscaler:
    """What makes pictures larger: a network from a file (``.safetensors``, ``.pth``), or "Lanczos" or "Nearest".

    Files are those of ESRGAN and Real-ESRGAN (`diafano.checkpoints.upscaler`), under old names of tensors and new ones.
    `device` and `dtype` are `diafano.load`'s. Use it by ``upscaler.upscale(picture, scale=2)``. Raises UserError, one
    sentence, for a file that is none, is incomplete or is another kind of network, which it names.
    """
    path = Path(source)
    if not is_file(path):
        found = UPSCALERS.get(key_of(str(source)))
        if found is not None and found.mode is None:
            return found
        raise UserError(
            f"there is no upscaler {str(source)!r}: give a file of {KNOWN}, or one of"
            f" {', '.join(one.label for one in UPSCALERS.values() if one.mode is None)}"
        )
    tensors, notes = read_with_notes(path, under=WRAPPERS)
    tensors = bare(tensors)
    network, weights = _recognised(tensors, path)
    differences = compare(network.state_dict(), weights)
    if odd := sorted(differences.missing) or list(differences.misshapes):
        raise UserError(f"{path} is no whole upscaler, see its {listed(odd)}: fetch it again")
    if differences.unexpected:
        raise UserError(
            f"{path} has {listed(differences.unexpected)}, for which {type(network).__name__} has no place: it is a"
            f" variant that is not known here, use one of {KNOWN}"
        )
    device = find_device(device)
    kind = find_dtype(dtype, device, sum(tensor.numel() for tensor in weights.values()))
    assign_weights(network, weights, device=device, dtype=kind, where=path)
    said = notes.get(METADATA_NAME)
    name = said if isinstance(said, str) and said else path.stem
    return NetworkUpscaler(name, network=network, hash=hash_of(path, HASH_DIGITS))


def save_upscaler(network: RRDBNet, path: Path, name: str, dtype: str = "float16") -> None:
    """Write a file under Real-ESRGAN's names, which other programs read as well; it says what it is called."""
    tensors = {key: storable(key, one, DTYPES[dtype]) for key, one in network.state_dict().items()}
    metadata = {METADATA_NAME: name, "architecture": "RRDBNet", "config": network.config.model_dump_json()}
    with whole_file(path) as unfinished:
        save_tensors(tensors, unfinished, metadata)


def _recognised(tensors: Mapping[str, Tensor], path: Path) -> tuple[EnlargingNetwork, dict[str, Tensor]]:
    """The network that a file is of, without memory, and the file's tensors under its names."""
    other = other_network(tensors)
    if other is not None:
        what = other if " " in other else f"an upscaler of the kind {other}"
        raise UserError(f"{path} is {what}, which is not known here: use one of {KNOWN}")
    names = rrdb_names(tensors)
    weights = {names[name]: tensor for name, tensor in tensors.items()}
    try:
        if "conv_first.weight" in weights and any(name.startswith("body.0.rdb1.") for name in weights):
            return _built(RRDBNet, _rrdb_config(weights)), weights
        if "body.0.weight" in weights and "body.1.weight" in weights:
            return _built(Compact, _compact_config(weights)), weights
    except (ValidationError, KeyError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is no whole upscaler ({reason}): fetch it again") from error
    raise UserError(f"{path} {is_instead(tensors, 'upscaler')}: use one of {KNOWN}")


def _built(kind: type[RRDBNet] | type[Compact], config: RRDBNetConfig | CompactConfig) -> EnlargingNetwork:
    with on_meta():
        return kind(config)  # type: ignore[arg-type]


def _rrdb_config(weights: Mapping[str, Tensor]) -> RRDBNetConfig:
    first, last = weights["conv_first.weight"].shape, weights["conv_last.weight"].shape
    return RRDBNetConfig(
        width=first[0],
        blocks=1 + _highest(weights, r"body\.(\d+)\."),
        growth=len(weights["body.0.rdb1.conv1.weight"]),
        doublings=max(0, _highest(weights, r"conv_up(\d+)\.")),
        unshuffle=math.isqrt(first[1] // last[0]),
        picture_channels=last[0],
        plus="body.0.rdb1.conv1x1.weight" in weights,
    )


def _compact_config(weights: Mapping[str, Tensor]) -> CompactConfig:
    width, channels = weights["body.0.weight"].shape[:2]
    last = _highest(weights, r"body\.(\d+)\.")
    shuffled = len(weights[f"body.{last}.weight"])
    return CompactConfig(
        width=width, layers=(last - 2) // 2, scale=math.isqrt(shuffled // channels), picture_channels=channels
    )


def _highest(weights: Mapping[str, Tensor], pattern: str) -> int:
    """The highest number in the names, -1 where there is none."""
    return max((int(match[1]) for name in weights if (match := re.match(pattern, name))), default=-1)
