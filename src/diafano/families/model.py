"""The parts of one model together, each usable alone; `stable_diffusion` draws with them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diafano.engine.tiles import decode
from diafano.errors import note
from diafano.families.family import Family, Parts, TextEncoder, TextPart
from diafano.families.table import family_of
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.unet import UNet
from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSchedule
from diafano.text_encoder.spelling import cut_note
from diafano.text_encoder.tokenizer import Tokenizer


class Model:
    """Tokenizer, text encoder, what predicts, autoencoder and noise process, which belong together."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder,
        unet: nn.Module,
        autoencoder: Autoencoder,
        schedule: Process,
        *,
        family: Family | None = None,
        further_texts: Mapping[str, TextPart] | None = None,
    ) -> None:
        """`unet` is what predicts, whatever the `family` calls it; None: the family whose parts these are.

        `further_texts` are text encoders beside the first, by their folder. Raises UserError where the parts do not
        fit each other.
        """
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        # Typed as Stable Diffusion's, which nearly all are; `parts` has them without that promise.
        self.unet = cast(UNet, unet)
        self.autoencoder = autoencoder
        self.schedule = cast(NoiseSchedule, schedule)
        self.further_texts = dict(further_texts or {})
        self.family = family_of(self.parts) if family is None else family
        self.family.check(self.parts)

    @property
    def texts(self) -> dict[str, TextPart]:
        """The text encoders with their tokenizers, by their folder."""
        return {"text_encoder": TextPart(self.tokenizer, self.text_encoder), **self.further_texts}

    @property
    def parts(self) -> Parts:
        """All of them, as the family knows them."""
        return Parts(self.texts, self.unet, self.autoencoder, self.schedule)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; the latent between its steps is always float32."""
        return next(self.unet.parameters()).dtype

    @property
    def size_step(self) -> int:
        """Width and height of a picture must be multiples of this many pixels."""
        return self.family.size_step(self.parts)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, h, w) of the latent of a picture of `size` (width, height) in pixels."""
        width, height = (edge // self.autoencoder.factor for edge in size)
        return self.autoencoder.config.latent_channels, height, width

    def encode_text(self, texts: Sequence[str], clip_skip: int = 1) -> Tensor:
        """Texts as they stand -> (count, tokens, text width), all in one batch. Notes words that do not fit."""
        for cut in filter(None, (cut_note(self.tokenizer, text) for text in texts)):
            note(cut)
        encoded: Tensor = self.text_encoder(self.tokenizer(texts).to(self.device), clip_skip)
        return encoded

    def decode(self, latent: Tensor, tiles: bool | None = None) -> Iterator[Tensor]:
        """Latents (batch, 4, h, w) of unit scale -> the pixels (3, height, width) of each, float32; see `tiles`."""
        return decode(self.autoencoder, latent, tiles=tiles)
