"""Words that are added to a text encoder after training: textual inversion (Gal et al. 2022, arXiv 2208.01618).

Such a word stands for one or several vectors in the place of token embeddings. It gets ids beyond the vocabulary:
`AddedWords` finds the words in a text, `TokenEmbedding` looks their vectors up. A text encoder's own weights stay.
"""

import re
from collections.abc import Iterator
from pathlib import PurePath

import torch
from torch import Tensor, nn

PREFIX = "embedding:"
"""What ComfyUI wants before the name of an added word's file."""
ENDINGS = (".safetensors", ".pt", ".bin")
"""How such files end."""

_BOUNDARY = r"[^\W_]"
"""Next to a name that begins or ends with a letter or digit, none of these may stand: "cat" is not in "catalogue"."""


class AddedWords:
    """Names and the ids that they stand for.

    A prompt may call an added word as its file is called, or as a word within the file is; A1111 and ComfyUI know the
    file's name alone (`of_file`).
    """

    def __init__(self) -> None:
        self._ids: dict[str, list[int]] = {}
        self._files: dict[str, list[int]] = {}
        self._pattern: re.Pattern[str] | None = None
        self.spelling: dict[int, str] = {}
        """Id -> the word that it belongs to, as its file is called if that is a word too."""
        self.inner: set[int] = set()
        """Ids that continue a word: before them no text can be cut."""

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._ids

    def add(self, name: str, ids: list[int], file: PurePath | None = None, *, names_file: bool = True) -> None:
        """From now on `name` is read as these ids, in upper and lower case alike.

        `file` is where it comes from, for a name with an ending or a folder; `names_file` False: only a word within.
        """
        self._ids[name.lower()] = ids
        if names_file:
            self._files[(name if file is None else (file.parent / f"{name}{file.suffix}").as_posix()).lower()] = ids
        self.inner |= set(ids[1:])
        known = self.spelling.keys() & set(ids)
        if names_file or not known:
            self.spelling |= dict.fromkeys(ids, name)
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_alone, longest_first)), re.IGNORECASE)

    @property
    def files(self) -> dict[str, list[int]]:
        """The files' names, in lower case and without folder and ending, and their ids."""
        return {_without_ending(file).rpartition("/")[2]: ids for file, ids in self._files.items()}

    def of_file(self, name: str) -> list[int] | None:
        """The ids of the file of that name, with its ending or without, with some of its folders or without."""
        asked = name.lower()
        for file, ids in self._files.items():
            if any(known == asked or known.endswith(f"/{asked}") for known in (file, _without_ending(file))):
                return ids
        return None

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
    """A pattern of the name where it stands alone, or as ComfyUI writes it: "embedding:" before it, its ending behind.

    Of a file's ending no word is left, which would be drawn.
    """
    before = rf"(?<!{_BOUNDARY})" if re.match(_BOUNDARY, name[0]) else ""
    after = rf"(?!{_BOUNDARY})" if re.match(_BOUNDARY, name[-1]) else ""
    ending = "|".join(map(re.escape, ENDINGS))
    return rf"\b{PREFIX}{re.escape(name)}(?:(?:{ending})\b|{after})|{before}{re.escape(name)}{after}"


def _name(match: re.Match[str]) -> str:
    name = match.group().lower()
    return _without_ending(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else name


def _without_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)
