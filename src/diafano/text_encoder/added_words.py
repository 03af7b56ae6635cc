"""Words that are added to a text encoder after training: textual inversion (Gal et al. 2022, arXiv 2208.01618).

Such a word stands for one or several vectors in the place of token embeddings. It gets ids beyond the vocabulary:
`AddedWords` finds the words in a text, `TokenEmbedding` looks their vectors up. A text encoder's own weights stay.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_BOUNDARY = r"[^\W_]"
"""Next to a name that begins or ends with a letter or digit, none of these may stand: "cat" is not in "catalogue"."""


class AddedWords:
    """Names and the ids that they stand for."""

    def __init__(self) -> None:
        self._ids: dict[str, list[int]] = {}
        self._pattern: re.Pattern[str] | None = None
        self.spelling: dict[int, str] = {}
        """Id -> the word that it belongs to."""
        self.inner: set[int] = set()
        """Ids that continue a word: before them no text can be cut."""

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._ids

    def add(self, name: str, ids: list[int]) -> None:
        """From now on `name` is read as these ids, in upper and lower case alike."""
        self._ids[name.lower()] = ids
        self.inner |= set(ids[1:])
        self.spelling |= dict.fromkeys(ids, name)
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_alone, longest_first)), re.IGNORECASE)

    def split(self, text: str) -> Iterator[tuple[str, list[int] | None]]:
        """The text in its order: what is no added word as it stands (None), and each added word with its ids."""
        at = 0
        for match in self._pattern.finditer(text) if self._pattern is not None else ():
            if match.start() > at:
                yield text[at : match.start()], None
            yield match.group(), self._ids[_name(match)]
            at = match.end()
        if at < len(text):
            yield text[at:], None

    def names_in(self, text: str) -> set[str]:
        """The added words that a text has, in lower case."""
        return set() if self._pattern is None else {_name(match) for match in self._pattern.finditer(text)}


class TokenEmbedding(nn.Embedding):
    """One vector for each token of the vocabulary, and for the ids beyond it those of the words added later."""

    added: Tensor | None

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.register_buffer("added", None, persistent=False)  # no weight of the model: it is not saved

    def add(self, vectors: Tensor) -> list[int]:
        """Vectors (count, width) -> their ids."""
        vectors = vectors.detach().to(self.weight)
        self.added = vectors if self.added is None else torch.cat([self.added, vectors])
        end = self.num_embeddings + len(self.added)
        return list(range(end - len(vectors), end))

    def forward(self, ids: Tensor) -> Tensor:
        """Int64 ids (batch, n) -> (batch, n, width)."""
        if self.added is None:
            return super().forward(ids)
        beyond = ids >= self.num_embeddings
        known = super().forward(ids.masked_fill(beyond, 0))
        added = self.added[(ids - self.num_embeddings).clamp(min=0)]
        return torch.where(beyond[..., None], added.to(known.dtype), known)


def _alone(name: str) -> str:
    """A pattern of the name where it stands alone; ComfyUI writes "embedding:" before it."""
    before = rf"(?<!{_BOUNDARY})" if re.match(_BOUNDARY, name[0]) else ""
    after = rf"(?!{_BOUNDARY})" if re.match(_BOUNDARY, name[-1]) else ""
    return rf"(?:\bembedding:)?{before}{re.escape(name)}{after}"


def _name(match: re.Match[str]) -> str:
    return match.group().lower().removeprefix("embedding:")
