"""Tiny decoders from files, for the previews of a model that is loaded.

    folder          diffusers' ``AutoencoderTiny``: config.json and weights, of which the decoder's are taken
    file            TAESD's own (``taesd_decoder.safetensors``, ``.pth``: "1.weight", "3.conv.0.weight"), or diffusers'

How many blocks there are, and how wide, is read off the tensors.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diafano.checkpoints.differences import compare
from diafano.checkpoints.loading import EMBEDDED
from diafano.checkpoints.opening import is_file, is_folder
from diafano.checkpoints.reading import assign_weights, listed, read_file, read_json, read_weights
from diafano.checkpoints.writing import save_tensors, storable
from diafano.engine.devices import DTYPES, on_meta
from diafano.errors import UserError
from diafano.families.folder_parts import DIFFUSERS_STEM
from diafano.families.strangers import is_instead
from diafano.networks.tiny_decoder import TinyDecoder, TinyDecoderConfig
from diafano.stable_diffusion import StableDiffusion

SHIPPED = EMBEDDED / "preview" / "decoder.safetensors"
"""Of the model that ships with the package."""
DIFFUSERS, ORIGINAL = "decoder.layers.", ("", "decoder.")
"""How names begin, before a layer's number; the original counts the bending of the latents as layer 0."""
KNOWN = {
    "shift_factor": 0.0,
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
    "out_channels": 3,
}
"""What diffusers' config may say of a network that is this one."""


def load_tiny_decoder(source: str | os.PathLike[str] | None, model: StableDiffusion) -> TinyDecoder:
    """The tiny decoder in a folder or file, in the number format and on the device of `model`; None: the one that
    ships with the package, for the embedded model.

    Raises UserError for what is none, is incomplete, or was made for latents of another kind.
    """
    path = SHIPPED if source is None else Path(source)
    scale = 1.0
    if is_folder(path):
        settings = read_json(path / "config.json")
        tensors = read_weights(path, DIFFUSERS_STEM)
        scale = _scale(settings, path)
    elif is_file(path):
        tensors = read_file(path)
    else:
        raise UserError(f"there is no tiny decoder {str(path)!r}: give diffusers' folder of one, or its file")
    weights = _named(tensors)
    if not weights:
        raise UserError(f"{path} {is_instead(tensors, 'tiny decoder')}, and no 1.weight")
    config = _config(weights, path).model_copy(update={"latent_scale": scale})
    own = model.autoencoder
    if (config.latent_channels, config.factor) != (own.config.latent_channels, own.factor):
        raise UserError(
            f"{path} takes latents of {config.latent_channels} channels and a {config.factor}th of a picture's edge,"
            f" and {model.card.name} draws {own.config.latent_channels} channels and a {own.factor}th: it belongs to a"
            " model of another kind"
        )
    with on_meta():
        decoder = TinyDecoder(config)
    differences = compare(decoder.state_dict(), weights)
    if odd := sorted(differences.missing) or differences.unexpected or list(differences.misshapen):
        raise UserError(f"{path} is no whole tiny decoder, see its {listed(odd)}: fetch it again")
    assign_weights(decoder, weights, device=model.device, dtype=model.dtype, where=path)
    return decoder


def save_tiny_decoder(decoder: TinyDecoder, path: Path, dtype: str = "float16") -> None:
    """Write a file under TAESD's own names, which other programs read as well."""
    tensors = {_original_name(name): storable(name, one, DTYPES[dtype]) for name, one in decoder.state_dict().items()}
    save_tensors(tensors, path)


def _original_name(name: str) -> str:
    _, number, rest = name.split(".", 2)
    return f"{int(number) + 1}.{rest}"


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's tensors under our names; none where there is no decoder."""
    if any(name.startswith(DIFFUSERS) for name in tensors):
        return {name.removeprefix("decoder."): one for name, one in tensors.items() if name.startswith(DIFFUSERS)}
    for prefix in ORIGINAL:
        found = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        if "1.weight" in found:
            numbered = {name.partition("."): one for name, one in found.items() if name.partition(".")[0].isdecimal()}
            return {f"layers.{int(number) - 1}.{rest}": one for (number, _, rest), one in numbered.items()}
    return {}


def _config(weights: Mapping[str, Tensor], path: Path) -> TinyDecoderConfig:
    """Convolutions stand between the levels, so the blocks between two of them are a level's."""
    first = weights.get("layers.0.weight")
    if first is None or first.ndim != 4:
        raise UserError(f"{path} is no whole tiny decoder, it lacks its first convolution: fetch it again")
    numbers = sorted({int(name.split(".")[1]) for name in weights})[1:]
    levels = [0]
    for number in numbers:
        if f"layers.{number}.conv.0.weight" in weights:
            levels[-1] += 1
        else:
            levels.append(0)
    return TinyDecoderConfig(blocks=tuple(levels[:-1]) or (0,), width=len(first), latent_channels=first.shape[1])


def _scale(settings: Mapping[str, Any], path: Path) -> float:
    """What diffusers divides the latents by. Raises UserError for a network of another kind."""
    odd: Iterable[str] = (
        f"{key} {settings[key]!r}" for key, value in KNOWN.items() if settings.get(key, value) != value
    )
    if differing := list(odd):
        raise UserError(f"{path}/config.json describes another network, with {listed(differing)}: use TAESD's")
    scale = settings.get("scaling_factor", 1.0)
    if not isinstance(scale, int | float) or not 0 < scale < 1e6:
        raise UserError(f"{path}/config.json has the scaling_factor {scale!r}: fetch it again")
    return float(scale)
