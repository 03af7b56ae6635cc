"""Named configurations: each is Stable Diffusion v1, or a difference from another one.

A preset says how large every part is and what it is trained with; it has no weights. Parameters are counted, and the
shapes of a run listed, without allocating any.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from diafano.engine.devices import on_meta
from diafano.errors import UserError
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import ScheduleConfig
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder


@dataclass(frozen=True)
class Preset:
    """One configuration a part; the defaults are Stable Diffusion v1's."""

    name: str
    size: tuple[int, int] = (512, 512)
    """(width, height) of the pictures it is made for, in pixels."""
    text_encoder: CLIPTextConfig | BERTConfig = CLIPTextConfig()  # noqa: RUF009 (frozen)
    unet: UNetConfig = UNetConfig()  # noqa: RUF009
    autoencoder: AutoencoderConfig = AutoencoderConfig()  # noqa: RUF009
    schedule: ScheduleConfig = ScheduleConfig(final_sigma="first", spacing_said=False)  # noqa: RUF009

    @property
    def tokens(self) -> int:
        """Tokens a prompt has, start, end and padding included."""
        return min(77, self.text_encoder.positions)

    @property
    def size_step(self) -> int:
        """Width and height of a picture must be multiples of this many pixels."""
        return self.autoencoder.factor


@dataclass(frozen=True)
class Parts:
    """The networks of a preset."""

    text_encoder: CLIPTextEncoder | BERTTextEncoder
    unet: UNet
    autoencoder: Autoencoder


@dataclass(frozen=True)
class PartShapes:
    """One row of a run: what goes into a part and what comes out, without the batch dimension."""

    part: str
    takes: str
    gives: str
    parameters: int | None = None


_SD1 = Preset("sd1")
_SD2 = replace(
    _SD1,
    name="sd2",
    size=(768, 768),
    # OpenCLIP ViT-H/14 without the last of its 24 layers, which is not used
    text_encoder=CLIPTextConfig(width=1024, mlp_width=4096, layers=23, heads=16, activation="gelu", pad_token=0),
    unet=UNetConfig(text_width=1024, heads=(5, 10, 20, 20), linear_projection=True),
    schedule=ScheduleConfig(final_sigma="first", prediction="v", spacing_said=False),
)
_EMBEDDED = replace(
    _SD1,
    name="embedded",
    size=(64, 64),  # latent (4, 16, 16)
    text_encoder=CLIPTextConfig(
        vocabulary=695, width=256, mlp_width=1024, layers=3, heads=4, start_token=693, end_token=694, pad_token=694
    ),
    unet=UNetConfig(widths=(96, 128, 192), layers=1, attention=(False, True, True), heads=(4, 4, 4), text_width=256),
    autoencoder=AutoencoderConfig(widths=(32, 64, 128), layers=1, groups=16, middle_attention=False),
    schedule=ScheduleConfig(prediction="v", kind="cosine", spacing="trailing"),
)

PRESETS = {preset.name: preset for preset in (_SD1, _SD2, _EMBEDDED)}


def find_preset(name: str) -> Preset:
    """The preset of that name."""
    preset = PRESETS.get(name.strip().lower())
    if preset is None:
        raise UserError(f"unknown preset {name!r}: use one of {', '.join(PRESETS)}")
    return preset


def build(preset: Preset, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Parts:
    """The preset's networks with random weights, as they are before training; torch's seed decides them."""
    encoder = preset.text_encoder
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made in this format at once: no second copy in memory
    try:
        with torch.device(device):
            return Parts(
                CLIPTextEncoder(encoder) if isinstance(encoder, CLIPTextConfig) else BERTTextEncoder(encoder),
                UNet(preset.unet),
                Autoencoder(preset.autoencoder),
            )
    finally:
        torch.set_default_dtype(before)


def parameter_counts(preset: Preset) -> dict[str, int]:
    """Parameters of ``text_encoder``, ``unet`` and ``autoencoder``; nothing is allocated."""
    return {name: _count(part) for name, part in vars(_weightless(preset)).items()}


def shapes(preset: Preset, width: int | None = None, height: int | None = None) -> list[PartShapes]:
    """What flows through the preset's parts for a picture of this size (default: its own), in the order of a run."""
    width = preset.size[0] if width is None else width
    height = preset.size[1] if height is None else height
    for edge in (width, height):
        if edge < preset.size_step or edge % preset.size_step:
            raise UserError(
                f"size {width}x{height} does not fit {preset.name}: use multiples of {preset.size_step} pixels"
            )
    parts = _weightless(preset)
    encoder_parameters, decoder_parameters = _count_sides(parts.autoencoder)
    factor = preset.autoencoder.factor
    pixels = f"({preset.autoencoder.picture_channels}, {height}, {width})"
    edges = f"{height // factor}, {width // factor}"
    latent, seen = f"({preset.autoencoder.latent_channels}, {edges})", f"({preset.unet.in_channels}, {edges})"
    text = f"({preset.tokens}, {preset.text_encoder.width})"
    return [
        PartShapes("Input", "picture, caption", f"{pixels}, text"),
        PartShapes("Image encoder", pixels, latent, encoder_parameters),
        PartShapes("Additive noise", f"{latent}, sigma", latent),
        PartShapes("Text encoder", f"({preset.tokens},)", text, _count(parts.text_encoder)),
        PartShapes("UNet", f"{seen}, timestep, {text}", latent, _count(parts.unet)),
        PartShapes("Sampler", f"{latent}, sigmas", latent),
        PartShapes("Decoder", latent, pixels, decoder_parameters),
    ]


def _weightless(preset: Preset) -> Parts:
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
