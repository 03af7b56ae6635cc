"""Named configurations of whole models, what they are made of, and what flows through them.

A preset says how large every part is and what it is trained with; it has no weights. Parameters are counted, and the
shapes of a run listed, without allocating any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diafano.engine.devices import on_meta
from diafano.errors import UserError
from diafano.families.family import Family, Preset
from diafano.families.table import FAMILIES
from diafano.networks.autoencoder import Autoencoder


@dataclass(frozen=True)
class Networks:
    """The networks of a preset."""

    texts: Mapping[str, Any]
    network: Any
    autoencoder: Autoencoder

    @property
    def text_encoder(self) -> Any:
        return self.texts["text_encoder"]

    @property
    def unet(self) -> Any:
        return self.network


@dataclass(frozen=True)
class PartShapes:
    """One row of a run: what goes into a part and what comes out, without the batch dimension."""

    part: str
    takes: str
    gives: str
    parameters: int | None = None


def _presets() -> dict[str, Preset]:
    """Of all families; those that are called as their family is come first."""
    presets = [preset for family in FAMILIES.values() for preset in family.presets]
    return {preset.name: preset for preset in sorted(presets, key=lambda preset: preset.name not in FAMILIES)}


PRESETS = _presets()


def find_preset(name: str) -> Preset:
    """The preset of that name."""
    preset = PRESETS.get(name.strip().lower())
    if preset is None:
        raise UserError(f"unknown preset {name!r}: use one of {', '.join(PRESETS)}")
    return preset


def family_of_text_width(width: int) -> str | None:
    """What people call the family whose text encoder has embeddings of that width."""
    owns = (family.presets[0] for family in FAMILIES.values() if family.presets)
    return next((FAMILIES[preset.family].label for preset in owns if preset.text_encoder.width == width), None)


def preset_of(
    family: Family, texts: Mapping[str, Any], network: Any, autoencoder: Any, process: Any, **named: Any
) -> Preset:
    """Of the configurations of a model's parts, text encoders by their folder; `named` are its `name` and `size`."""
    first, *further = texts
    return Preset(
        family=family.name,
        text_encoder=texts[first],
        further_texts={folder: texts[folder] for folder in further},
        unet=network,
        autoencoder=autoencoder,
        schedule=process,
        **named,
    )


def build(preset: Preset, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Networks:
    """The preset's networks with random weights, as they are before training; torch's seed decides them."""
    family = FAMILIES[preset.family]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made in this format at once: no second copy in memory
    try:
        with torch.device(device):
            return Networks(
                {folder: _made(family, folder, config) for folder, config in preset.texts.items()},
                _made(family, family.network, preset.unet),
                _made(family, family.autoencoder, preset.autoencoder),
            )
    finally:
        torch.set_default_dtype(before)


def _made(family: Family, folder: str, config: object) -> Any:
    """The network of that configuration, of a class that the family has in that folder."""
    for part in family.folders[folder]:
        if isinstance(config, part.config_class):
            return part.make(config)
    raise UserError(f"{family.label} has no {folder} that is configured by a {type(config).__name__}")


def parameter_counts(preset: Preset) -> dict[str, int]:
    """Parameters of ``text_encoder``, ``unet`` and ``autoencoder``; nothing is allocated."""
    networks = _on_meta(preset)
    named = {**networks.texts, FAMILIES[preset.family].network: networks.network, "autoencoder": networks.autoencoder}
    return {name: _count(network) for name, network in named.items()}


def shapes(preset: Preset, width: int | None = None, height: int | None = None) -> list[PartShapes]:
    """What flows through the preset's parts for a picture of this size (default: its own), in the order of a run."""
    family, factor = FAMILIES[preset.family], preset.autoencoder.factor
    step = factor * family.patch
    width = preset.size[0] if width is None else width
    height = preset.size[1] if height is None else height
    for edge in (width, height):
        if edge < step or edge % step:
            raise UserError(f"size {width}x{height} does not fit {preset.name}: use multiples of {step} pixels")
    networks = _on_meta(preset)
    encoder_parameters, decoder_parameters = _count_sides(networks.autoencoder)
    pixels = f"({preset.autoencoder.picture_channels}, {height}, {width})"
    edges = f"{height // factor}, {width // factor}"
    latent, seen = f"({preset.autoencoder.latent_channels}, {edges})", f"({preset.unet.in_channels}, {edges})"
    text = f"({preset.tokens}, {sum(config.width for config in preset.texts.values())})"
    return [
        PartShapes("Input", "picture, caption", f"{pixels}, text"),
        PartShapes("Image encoder", pixels, latent, encoder_parameters),
        PartShapes("Additive noise", f"{latent}, sigma", latent),
        PartShapes("Text encoder", f"({preset.tokens},)", text, sum(map(_count, networks.texts.values()))),
        PartShapes(family.network_label, f"{seen}, timestep, {text}", latent, _count(networks.network)),
        PartShapes("Sampler", f"{latent}, sigmas", latent),
        PartShapes("Decoder", latent, pixels, decoder_parameters),
    ]


def _on_meta(preset: Preset) -> Networks:
    with on_meta():
        return build(preset, device="meta")


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _count_sides(autoencoder: Autoencoder) -> tuple[int, int]:
    """Parameters of the image encoder and of the decoder, each with its 1x1 convolution at the latent."""
    return (
        _count(autoencoder.encoder) + _count(autoencoder.quant_conv),
        _count(autoencoder.decoder) + _count(autoencoder.post_quant_conv),
    )
