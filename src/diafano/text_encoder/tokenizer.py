"""Text -> token ids: CLIP's byte-pair encoding and BERT's WordPiece, from and to a model's tokenizer folder.

Both follow transformers' ``CLIPTokenizer`` and ``BertTokenizer`` id for id, so a folder written here opens there and
the other way round. The byte-pair merging and the longest-match search themselves are the ``tokenizers`` library's.

Sources: Sennrich et al. 2016 (byte-pair encoding), Radford et al. 2021 (CLIP's variant: lower case, bytes, ``</w>``),
Devlin et al. 2019 (WordPiece).
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import tokenizers
import torch
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from torch import Tensor

from diafano.errors import UserError
from diafano.files import how_to_spell, reason, write_text
from diafano.text_encoder.added_words import AddedWords
from diafano.text_encoder.tokenizer_files import (
    END,
    END_OF_WORD,
    FLAGS,
    SPECIAL_TOKENS,
    START,
    Kind,
    added_token,
    added_tokens,
    merges_of,
    read_json,
    read_special_tokens,
    read_vocabulary,
)

Naming = Literal["any", "files", "none"]
"""How a text calls added words: as their files or the words within them are called, "embedding:" before it or not; as
their files are, token for token (A1111); or they are not looked for."""

LENGTH = 77  # tokens per prompt, start and end included: what CLIP's text transformer was trained with

# CLIP's own split: the two special tokens, English clitics, runs of letters, single digits, runs of anything else.
CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

START_ROLE: dict[Kind, str] = {"byte_pair": "bos_token", "word_piece": "cls_token"}
END_ROLE: dict[Kind, str] = {"byte_pair": "eos_token", "word_piece": "sep_token"}
TOKENIZER_CLASS: dict[Kind, str] = {"byte_pair": "CLIPTokenizer", "word_piece": "BertTokenizer"}
# How BertTokenizer prepares text, and its defaults (None: accents go exactly when text is lower-cased).
WORD_PIECE_OPTIONS: dict[str, bool | None] = {
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
}


class Tokenizer:
    """Text -> (batch, length) token ids with start, end and padding, as a text encoder takes them.

    Attributes:
        kind: ``"byte_pair"`` (CLIP) or ``"word_piece"`` (BERT).
        length: ids per text, start and end included (77).
        start_token, end_token, pad_token: their ids.
        vocabulary_size: number of ids; the rows of the text encoder's token embedding.
        added: words with ids beyond the vocabulary (textual inversion), which are not saved.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        kind: Kind,
        special_tokens: Mapping[str, str],
        *,
        length: int = LENGTH,
        options: Mapping[str, bool | None] | None = None,
        ids: Iterable[int] | None = None,
    ) -> None:
        """Wrap a ``tokenizers.Tokenizer`` whose added tokens include every one of ``special_tokens`` (role -> text).

        ``ids`` are those of its vocabulary, for whoever has them: asking the library for them all takes its time.
        """
        if length < 2:
            raise UserError(f"A tokenizer's length of {length} leaves no room for start and end; use 2 or more.")
        self.kind: Kind = kind
        self.length = length
        self.special_tokens = dict(special_tokens)
        self.options = {} if options is None else dict(options)
        self.added = AddedWords()
        self._spelled: dict[str, list[int]] = {}  # names of files of added words, and their ids if they were none
        self._backend = backend
        self.start_token = self._id_of(START_ROLE[kind])
        self.end_token = self._id_of(END_ROLE[kind])
        self.pad_token = self._id_of("pad_token")
        ids = backend.get_vocab(with_added_tokens=True).values() if ids is None else ids
        self.vocabulary_size: int = max(ids) + 1

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, length: int = LENGTH) -> "Tokenizer":
        """Read ``vocab.json`` + ``merges.txt`` (CLIP), ``vocab.txt`` (BERT) or ``tokenizer.json`` (either).

        Which token pads, and how special tokens match, is read from ``special_tokens_map.json`` and
        ``tokenizer_config.json``; the former wins, as in transformers. ``length`` is lowered to the folder's
        ``model_max_length`` where that is smaller. Raises UserError when a file is missing or broken.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise UserError(
                f"There is no tokenizer folder at {folder}; give a folder that holds vocab.json or vocab.txt."
            )
        try:
            config = read_json(folder / "tokenizer_config.json", optional=True)
            stored = read_vocabulary(folder)
            special = read_special_tokens(folder, config, stored)
            limit = config.get("model_max_length")  # transformers writes 1e30 for "none"
            options = {name: config.get(name, default) for name, default in WORD_PIECE_OPTIONS.items()}
            if stored.kind == "byte_pair":
                backend, options = _clip_backend(stored.vocabulary, stored.merges), {}
            else:
                backend = _bert_backend(stored.vocabulary, special["unk_token"].content, options)
            backend.add_tokens([*added_tokens(config, stored), *special.values()])
            return cls(
                backend,
                stored.kind,
                {role: token.content for role, token in special.items()},
                length=length if limit is None else min(length, int(limit)),
                options=options,
                ids=[*stored.vocabulary.values(), *backend.get_added_tokens_decoder()],
            )
        except UserError:
            raise
        except Exception as error:  # the tokenizers library raises a bare Exception for every broken file
            raise UserError(
                f"The tokenizer files in {folder} cannot be read ({reason(error)}); fetch them again."
            ) from error

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Texts -> int64 ids (batch, length): start, the text, end, padding. A long text is cut and keeps its end."""
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            row = [self.start_token, *self.encode(text)[: self.length - 2], self.end_token]
            rows.append(row + [self.pad_token] * (self.length - len(row)))
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, self.length)

    def encode(self, text: str, naming: Naming = "any") -> list[int]:
        """The text's own ids: no start, no end, no padding, nothing cut. `naming`: how added words are called."""
        if naming != "any":
            plain = self._encoding(text).ids
            return self._with_files(plain) if naming == "files" else plain
        ids: list[int] = []
        for part, added in self._parts(text):
            ids += self._encoding(part).ids if added is None else added
        return ids

    def _with_files(self, ids: list[int]) -> list[int]:
        """The ids with added words in the place of their files' names: compared id by id, the longest first."""
        named: dict[int, list[tuple[list[int], list[int]]]] = {}  # by the first id
        for name, added in self.added.files.items():
            if name not in self._spelled:
                self._spelled[name] = self._encoding(name).ids
            if spelled := self._spelled[name]:
                named.setdefault(spelled[0], []).append((spelled, added))
        found: list[int] = []
        at = 0
        while at < len(ids):
            fitting = [pair for pair in named.get(ids[at], ()) if ids[at : at + len(pair[0])] == pair[0]]
            spelled, added = max(fitting, key=lambda pair: len(pair[0]), default=([ids[at]], [ids[at]]))
            found += added
            at += len(spelled)
        return found

    def tokens(self, text: str) -> list[str]:
        """The text's own tokens as the vocabulary spells them, one per id of ``encode``."""
        tokens: list[str] = []
        for part, added in self._parts(text):
            tokens += self._encoding(part).tokens if added is None else [self.added.spelling[one] for one in added]
        return tokens

    def token_count(self, text: str) -> int:
        """How many tokens the text has, start and end not counted; up to ``length - 2`` fit."""
        return len(self.encode(text))

    def tokens_cut(self, text: str) -> int:
        """How many tokens at the end of the text a call leaves out because they do not fit; 0 for most prompts."""
        return max(0, self.token_count(text) - (self.length - 2))

    def text_cut(self, text: str) -> str:
        """The end of the text that a call leaves out because it does not fit, as it was written; "" for most."""
        starts: list[int] = []
        at = 0
        for part, added in self._parts(text):
            starts += [at + start for start, _ in self._encoding(part).offsets] if added is None else [at] * len(added)
            at += len(part)
        room = self.length - 2
        return text[starts[room] :] if len(starts) > room else ""

    def name_of(self, token: int) -> str:
        """An id as the vocabulary spells it; of a word that was added, that word."""
        return self.added.spelling.get(token) or self._backend.id_to_token(token) or f"<{token}>"

    def mask(self, ids: Tensor) -> Tensor:
        """Which ids (batch, length) are text, start or first end (True) rather than padding (False)."""
        is_end = ids == self.end_token
        ends_before = is_end.cumsum(dim=1) - is_end.to(torch.int64)
        return ends_before == 0

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder that transformers' CLIPTokenizer or BertTokenizer opens with the same ids."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        model = json.loads(self._backend.to_str())["model"]
        if self.kind == "byte_pair":
            merges = "".join(f"{left} {right}\n" for left, right in merges_of(model))
            write_text(target / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
            write_text(target / "merges.txt", "#version: 0.2\n" + merges)
        else:
            write_text(
                target / "vocab.txt", "".join(f"{token}\n" for token in sorted(model["vocab"], key=model["vocab"].get))
            )
        added = {
            str(index): {name: getattr(token, name) for name in (*FLAGS, "content", "special")}
            for index, token in self._backend.get_added_tokens_decoder().items()
        }
        flags = {token["content"]: {name: token[name] for name in ("content", *FLAGS)} for token in added.values()}
        special = {role: flags[text] for role, text in self.special_tokens.items()}
        config = {
            "tokenizer_class": TOKENIZER_CLASS[self.kind],
            "model_max_length": self.length,
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": added,
            **({"do_lower_case": True, "errors": "replace"} if self.kind == "byte_pair" else self.options),
            **self.special_tokens,
        }
        write_text(target / "special_tokens_map.json", json.dumps(special, indent=2, ensure_ascii=False))
        write_text(target / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False))

    def _parts(self, text: str) -> Iterable[tuple[str, list[int] | None]]:
        if not isinstance(text, str):
            raise UserError(f"A prompt must be text, not {type(text).__name__}; pass a string or a list of strings.")
        return self.added.split(text)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate, as from undecodable command-line bytes
            raise UserError(f"The prompt {text!r} is not valid Unicode text; {how_to_spell()}.") from error

    def _id_of(self, role: str) -> int:
        index: int | None = self._backend.token_to_id(self.special_tokens[role])
        if index is None:
            raise UserError(
                f"The tokenizer has no {role} {self.special_tokens[role]!r}; its files do not belong together."
            )
        return index


def train_byte_pair(
    captions: Iterable[str], vocabulary_size: int, *, length: int = LENGTH, minimum_frequency: int = 2
) -> Tokenizer:
    """Learn CLIP's kind of byte-pair encoding from captions.

    The vocabulary is laid out as CLIP's: 256 bytes, 256 bytes that end a word, one token per merge, start, end. So
    every text can be written, seen or not, and start and end have the two highest ids. Merging goes on while a pair
    occurs ``minimum_frequency`` times; captions with few different words thus give fewer than ``vocabulary_size``
    tokens, and then every word that occurs that often is one token. The same captions give the same tokens.

    Raises UserError when ``vocabulary_size`` is below 514 (the bytes, start and end) or there are no captions.
    """
    alphabet = byte_alphabet()
    letters = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    smallest = len(letters) + 2
    if vocabulary_size < smallest:
        raise UserError(
            f"A vocabulary of {vocabulary_size} tokens is too small: the bytes, start and end alone take {smallest};"
            " give a larger vocabulary_size."
        )
    if isinstance(captions, str):
        raise UserError("Captions must be several texts, not one string; pass a list of strings.")
    learner = _clip_backend({}, [])
    learner.train_from_iterator(
        captions,
        # Named as special tokens, all 512 letters have their ids before training starts. The library gives ids to
        # word-ending letters in the random order of a hash map otherwise, and breaks ties between pairs by id.
        trainer=BpeTrainer(
            vocab_size=vocabulary_size - 2,
            min_frequency=minimum_frequency,
            special_tokens=letters,
            end_of_word_suffix=END_OF_WORD,
            show_progress=False,
        ),
    )
    merges = merges_of(json.loads(learner.to_str())["model"])
    if not merges and vocabulary_size > smallest:
        raise UserError("The captions hold no pair of letters that occurs often enough; give more captions.")
    # Two different pairs may spell the same token, so tokens are told apart before they are numbered.
    tokens = dict.fromkeys([*letters, *(left + right for left, right in merges), START, END])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = _clip_backend(vocabulary, merges)
    backend.add_tokens([added_token(START), added_token(END)])
    return Tokenizer(backend, "byte_pair", SPECIAL_TOKENS["byte_pair"], length=length)


def train_word_piece(
    captions: Iterable[str], vocabulary_size: int, *, length: int = LENGTH, minimum_frequency: int = 2
) -> Tokenizer:
    """Learn BERT's WordPiece from captions, in lower case and without accents, as BERT's uncased models have it.

    The vocabulary is the special tokens, padding with id 0 first; the letters that occur, each at a word's beginning
    and within one; then pieces and whole words by how often they occur. A letter that no caption has is [UNK]. The
    same captions give the same tokens.

    Raises UserError when ``vocabulary_size`` has no room for the letters, or there are no captions.
    """
    if isinstance(captions, str):
        raise UserError("Captions must be several texts, not one string; pass a list of strings.")
    named = SPECIAL_TOKENS["word_piece"]
    special = [named[role] for role in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")]
    learner = _bert_backend({}, named["unk_token"], WORD_PIECE_OPTIONS)
    assert learner.normalizer is not None and learner.pre_tokenizer is not None
    texts = list(captions)
    words = {
        word
        for text in texts
        for word, _ in learner.pre_tokenizer.pre_tokenize_str(learner.normalizer.normalize_str(text))
    }
    letters = sorted({letter for word in words for letter in word})
    if not letters:
        raise UserError("The captions hold no words to learn a vocabulary from; give more captions.")
    # Named as special tokens, for the reason that `train_byte_pair` tells.
    known = [*special, *letters, *("##" + letter for letter in letters)]
    if vocabulary_size < len(known):
        raise UserError(
            f"A vocabulary of {vocabulary_size} tokens is too small: the captions' letters alone take {len(known)};"
            " give a larger vocabulary_size."
        )
    learner.train_from_iterator(
        texts,
        trainer=WordPieceTrainer(
            vocab_size=vocabulary_size, min_frequency=minimum_frequency, special_tokens=known, show_progress=False
        ),
    )
    vocabulary = json.loads(learner.to_str())["model"]["vocab"]
    backend = _bert_backend(vocabulary, named["unk_token"], WORD_PIECE_OPTIONS)
    backend.add_tokens([added_token(token, special=True) for token in special])
    return Tokenizer(backend, "word_piece", named, length=length, options=WORD_PIECE_OPTIONS)


def byte_alphabet() -> list[str]:
    """256 printable characters that stand for the 256 bytes, in CLIP's order (``!`` is id 0)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(256 - len(plain))]


def _clip_backend(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    model = BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD, continuing_subword_prefix="")
    if END in vocabulary:
        model.unk_token = END
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return backend


def _bert_backend(vocabulary: dict[str, int], unknown: str, options: Mapping[str, bool | None]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(WordPiece(vocab=vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(options["tokenize_chinese_chars"]),
        strip_accents=options["strip_accents"],
        lowercase=bool(options["do_lower_case"]),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend
