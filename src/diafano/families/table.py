"""Temporary."""

from collections.abc import Mapping

import torch

from diafano.errors import note
from diafano.families.family import Family, Parts, TextPart
from diafano.families.matching import check_parts_match
from diafano.networks.conditioning import Conditioning
from diafano.text_encoder.prompt_embedding import Weighting, embed_prompt
from diafano.text_encoder.spelling import cut_note


def _encode(
    text: str,
    texts: Mapping[str, TextPart],
    *,
    clip_skip: int | None = None,
    weighting: Weighting | None = None,
    size: tuple[int, int] = (0, 0),
    negative: bool = False,
) -> Conditioning:
    part = texts["text_encoder"]
    skip = 1 if clip_skip is None else clip_skip
    if weighting is None:
        if (cut := cut_note(part.tokenizer, text)) is not None:
            note(cut)
        device = next(part.encoder.parameters()).device
        return Conditioning(part.encoder(part.tokenizer([text]).to(device), skip))
    made: torch.Tensor = embed_prompt(text, part.tokenizer, part.encoder, skip=skip, weighting=weighting)
    return Conditioning(made[None])


def _check(parts: Parts) -> None:
    text = parts.texts["text_encoder"]
    check_parts_match(text.tokenizer, text.encoder, parts.network, parts.autoencoder)  # type: ignore[arg-type]


TEMPORARY = Family("sd1", "Stable Diffusion 1", (), _encode, _check, lambda parts: True, {}, lambda parts: {})


def family_of(parts: Parts) -> Family:
    return TEMPORARY
