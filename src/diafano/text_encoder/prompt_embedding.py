"""From a weighted prompt of any length to embeddings: chunks of 75 tokens, and what a weight does to a token.

A text encoder reads 77 tokens. A longer prompt is cut into chunks, each with a start, an end and padding of its own,
and their embeddings follow one another: the UNet attends to any number of tokens. Reading, cutting and weighting are
A1111's or ComfyUI's (`Weighting`), and so is how added words (textual inversion) are called:

                                    diafano         A1111               ComfyUI
    EasyNegative                    the added word  the added word      a word
    embedding:EasyNegative          the added word  words, added word   the added word
    the word within the file        the added word  a word              a word
    embedding:unknown               left out        words               left out
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diafano.errors import note
from diafano.text_encoder import comfyui_syntax
from diafano.text_encoder.a1111_syntax import Piece, weighted
from diafano.text_encoder.added_words import PREFIX, AddedWords
from diafano.text_encoder.bert import BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer

Weighting = Literal["diafano", "a1111", "comfyui"]
"""diafano and A1111, which differ in how some prompts are read (`a1111_syntax`): a token's embedding times its weight,
then all by one factor, so that their mean stays. ComfyUI: from the empty prompt's embedding at the same place, by
weight, towards the token's."""

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


def chunks_of(tokenizer: Tokenizer, text: str, weighting: Weighting = "diafano") -> list[Chunk]:
    """The prompt's chunks, at least one. In A1111's syntax `BREAK` begins a new one."""
    if weighting == "comfyui":
        return _packed(tokenizer, comfyui_syntax.weighted(text))
    exact = weighting == "a1111"
    stretches = [_tokens(tokenizer, stretch, exact) for stretch in weighted(text, exact=exact)]
    if exact and len(stretches) > 1 and not stretches[-1]:
        del stretches[-1]  # A1111 begins a chunk when there is something to put into it
    return [chunk for stretch in stretches for chunk in _filled(tokenizer, stretch)]


def words_used(tokenizer: Tokenizer, text: str, weighting: Weighting | None) -> set[str]:
    """The added words that a prompt uses, in lower case."""
    if weighting is None:
        return tokenizer.added.names_in(text)
    spelling = tokenizer.added.spelling
    ids = {token for chunk in chunks_of(tokenizer, text, weighting) for token in chunk.ids}
    return {spelling[token].lower() for token in ids & spelling.keys()}


def unknown_words(tokenizer: Tokenizer, text: str, weighting: Weighting) -> list[str]:
    """What a prompt calls an added word, but is none: it is left out, except by A1111, where it is words."""
    if weighting == "a1111":
        return []
    if weighting == "diafano":
        return [match[0] for match in _CALLED.finditer(text) if not _without_folder(match, tokenizer.added)]
    parts = (part for piece in comfyui_syntax.weighted(text) for part in _comfyui_parts(piece.text, tokenizer.added))
    return [part.name for part in parts if isinstance(part, _Unknown)]


_CALLED = re.compile(rf"(?<!\w){PREFIX}[^\s,:()\[\]|]+", re.IGNORECASE)
"""An added word as ComfyUI calls it, where A1111's brackets have a meaning."""


def _without_folder(match: re.Match[str], added: AddedWords) -> str:
    """What is called there, as `AddedWords` knows it; "" of what is not known."""
    if any(words is not None and match[0].startswith(said) for said, words in added.split(match[0])):
        return match[0]
    name = match[0][len(PREFIX) :]
    return "" if added.of_file(name) is None else PREFIX + name.rpartition("/")[2]


def _tokens(tokenizer: Tokenizer, stretch: Sequence[Piece], exact: bool) -> list[tuple[int, float]]:
    def ids(text: str) -> list[int]:
        if exact:
            return tokenizer.encode(text, "files")
        return tokenizer.encode(_CALLED.sub(lambda match: _without_folder(match, tokenizer.added), text))

    return [(token, piece.weight) for piece in stretch for token in ids(piece.text)]


def _filled(tokenizer: Tokenizer, tokens: list[tuple[int, float]]) -> list[Chunk]:
    room = tokenizer.length - 2
    commas = set(tokenizer.encode(","))
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
        for part in _comfyui_parts(piece.text, tokenizer.added):
            if isinstance(part, _Unknown):
                continue
            ids = tokenizer.encode(part, "none") if isinstance(part, str) else part
            tokens = [(token, piece.weight) for token in ids]
            torn = len(tokens) > min(LONGEST_KEPT, room)
            while len(tokens) > (left := room - len(chunks[-1])):
                if torn:
                    chunks[-1] += tokens[:left]
                    tokens = tokens[left:]
                chunks.append([])
            chunks[-1] += tokens
    return [_chunk(tokenizer, chunk) for chunk in chunks]


@dataclass(frozen=True)
class _Unknown:
    """An added word that there is not."""

    name: str


def _comfyui_parts(text: str, added: AddedWords) -> Iterator[str | list[int] | _Unknown]:
    """A piece's texts and its added words, as ComfyUI tells them apart.

    A name ends at a blank; commas around it are no part of it where it is not known with them.
    """
    first, *others = re.split(rf"[ \n]{PREFIX}", text)
    for part in (first, *(PREFIX + other for other in others)):
        if not part.startswith(PREFIX):
            if part:
                yield part
            continue
        words = part.removeprefix(PREFIX).split()
        if not words:
            continue
        name, rest = words[0], " ".join(words[1:])
        ids = added.of_file(name)
        if ids is None and (bare := name.strip(",")) != name:
            ids, rest, name = added.of_file(bare), f"{name[len(bare) :]} {rest}", bare
        yield _Unknown(PREFIX + name) if ids is None else ids
        if rest:
            yield rest


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
    weighting: Weighting = "diafano",
) -> Tensor:
    """Embeddings (chunks * 77, width) of one prompt; `skip` is CLIP skip (1: the last layer)."""
    if unknown := unknown_words(tokenizer, text, weighting):
        note(
            f"left out of the prompt: {', '.join(unknown)}, which no file of --embedding is called: give that file, or"
            " check the name"
        )
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
