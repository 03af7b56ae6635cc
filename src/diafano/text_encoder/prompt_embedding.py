"""From a weighted prompt of any length to embeddings: chunks of 75 tokens, and what a weight does to a token.

A text encoder reads 77 tokens. A longer prompt is cut into chunks, each with a start, an end and padding of its own,
and their embeddings follow one another: the UNet attends to any number of tokens. Reading, cutting and weighting are
A1111's or ComfyUI's (`Weighting`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diafano.text_encoder import comfyui_syntax
from diafano.text_encoder.a1111_syntax import Piece, weighted
from diafano.text_encoder.bert import BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer

Weighting = Literal["a1111", "comfyui"]
"""A1111: a token's embedding times its weight, then all by one factor, so that their mean stays. ComfyUI: from the
empty prompt's embedding at the same place, by weight, towards the token's."""

COMMA_REACH = 20
"""A1111: a chunk that is full ends at a comma among its last so many tokens, so that no phrase is torn apart."""
LONGEST_KEPT = 7
"""ComfyUI: words of one weight are not torn apart if they have at most so many tokens."""


@dataclass(frozen=True)
class Chunk:
    """One row for the text encoder: ids and weights, start, end and padding included (`Tokenizer.length` of each)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def is_weighted(self) -> bool:
        return any(weight != 1.0 for weight in self.weights)


def chunks_of(tokenizer: Tokenizer, text: str, weighting: Weighting = "a1111") -> list[Chunk]:
    """The prompt's chunks, at least one. In A1111's syntax `BREAK` begins a new one."""
    if weighting == "comfyui":
        return _packed(tokenizer, comfyui_syntax.weighted(text))
    found: list[Chunk] = []
    for stretch in weighted(text):
        found += _filled(tokenizer, stretch)
    return found


def _filled(tokenizer: Tokenizer, stretch: Sequence[Piece]) -> list[Chunk]:
    room = tokenizer.length - 2
    commas = set(tokenizer.encode(","))
    tokens = [(token, piece.weight) for piece in stretch for token in tokenizer.encode(piece.text)]
    found: list[Chunk] = []
    while len(tokens) > room:
        end = room
        if tokens[room][0] not in commas:
            near = [at + 1 for at in range(room - COMMA_REACH, room) if tokens[at][0] in commas]
            end = near[-1] if near else room
        while tokens[end][0] in tokenizer.added.inner:
            end -= 1
        found.append(_chunk(tokenizer, tokens[:end]))
        tokens = tokens[end:]
    return [*found, _chunk(tokenizer, tokens)]


def _packed(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[Chunk]:
    """ComfyUI's cutting: a short piece goes into the next chunk as a whole, a long one fills this one up."""
    room = tokenizer.length - 2
    chunks: list[list[tuple[int, float]]] = [[]]
    for piece in pieces:
        tokens = [(token, piece.weight) for token in tokenizer.encode(piece.text)]
        torn = len(tokens) > min(LONGEST_KEPT, room)
        while len(tokens) > (left := room - len(chunks[-1])):
            if torn:
                chunks[-1] += tokens[:left]
                tokens = tokens[left:]
            chunks.append([])
        chunks[-1] += tokens
    return [_chunk(tokenizer, chunk) for chunk in chunks]


def _chunk(tokenizer: Tokenizer, tokens: Sequence[tuple[int, float]]) -> Chunk:
    padding = tokenizer.length - 2 - len(tokens)
    ids = [tokenizer.start_token, *(token for token, _ in tokens), tokenizer.end_token]
    weights = [1.0, *(weight for _, weight in tokens), 1.0]
    return Chunk((*ids, *[tokenizer.pad_token] * padding), (*weights, *[1.0] * padding))


def embed_prompt(
    text: str,
    tokenizer: Tokenizer,
    text_encoder: CLIPTextEncoder | BERTTextEncoder,
    *,
    skip: int = 1,
    weighting: Weighting = "a1111",
) -> Tensor:
    """Embeddings (chunks * 77, width) of one prompt; `skip` is CLIP skip (1: the last layer)."""
    chunks = chunks_of(tokenizer, text, weighting)
    device = next(text_encoder.parameters()).device

    def encode(rows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor(rows, device=device)
        encoded: Tensor = text_encoder(ids) if skip == 1 else text_encoder(ids, skip)
        return encoded

    embeddings = encode([chunk.ids for chunk in chunks])
    if any(chunk.is_weighted for chunk in chunks):
        weights = torch.tensor([chunk.weights for chunk in chunks], device=device, dtype=embeddings.dtype)[..., None]
        if weighting == "comfyui":
            empty = encode([_chunk(tokenizer, []).ids])
            embeddings = torch.lerp(empty.expand_as(embeddings), embeddings, weights.expand_as(embeddings))
        else:
            heavier = embeddings * weights
            mean, changed = (one.mean(dim=(1, 2), keepdim=True) for one in (embeddings, heavier))
            embeddings = heavier * (mean / changed)
    return embeddings.flatten(0, 1)
