"""Whether the parts of a model belong together."""

from typing import TypeVar

from diafano.errors import UserError
from diafano.families.family import Parts
from diafano.networks.unet import UNet
from diafano.noise.schedule import NoiseSchedule

Kind = TypeVar("Kind")


def expected(part: object, kind: type[Kind], what: str, label: str) -> Kind:
    """The part, which must be of that class. `what` it is and the family's `label` are for the sentence if not."""
    if not isinstance(part, kind):
        raise UserError(
            f"the {what} is a {type(part).__name__}, and {label} has a {kind.__name__}: they belong to different models"
        )
    return part


def check_parts_match(parts: Parts, label: str) -> None:
    """Of Stable Diffusion: raises UserError where one part does not take what the part before it gives."""
    unet = expected(parts.network, UNet, "network", label)
    expected(parts.process, NoiseSchedule, "noise process", label)
    text, *further = parts.texts.values()
    if further:
        raise UserError(
            f"{label} reads one text encoder, not {', '.join(parts.texts)}: they belong to different models"
        )
    tokenizer, text_encoder, autoencoder = text.tokenizer, text.encoder, parts.autoencoder
    channels = autoencoder.config.latent_channels
    if unet.config.in_channels not in (channels, 2 * channels + 1):  # the latter for inpainting
        raise UserError(
            f"the UNet takes {unet.config.in_channels} channels and the autoencoder makes {channels}: models for"
            " depth or editing are not known, use a text-to-image model"
        )
    if unet.config.out_channels != channels:
        raise UserError(f"the UNet gives {unet.config.out_channels} channels, not the autoencoder's {channels}")
    if unet.config.text_width != text_encoder.config.width:
        raise UserError(
            f"the UNet reads text of width {unet.config.text_width} and the text encoder gives"
            f" {text_encoder.config.width}: they belong to different models"
        )
    if tokenizer.vocabulary_size > text_encoder.config.vocabulary:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary_size} tokens and the text encoder knows"
            f" {text_encoder.config.vocabulary}: they belong to different models"
        )
    if tokenizer.length > text_encoder.config.positions:
        raise UserError(
            f"the tokenizer gives {tokenizer.length} tokens a text and the text encoder has"
            f" {text_encoder.config.positions} positions: they belong to different models"
        )
