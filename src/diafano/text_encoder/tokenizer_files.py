"""The files of a tokenizer's folder: vocabulary, merges, tokens added later and what the special ones are.

CLIP's and BERT's, as transformers has written them in all its versions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken
from tokenizers.models import WordPiece

from diafano.errors import UserError
from diafano.files import read_text, reason

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"

Kind = Literal["byte_pair", "word_piece"]
# The special tokens each kind has, in the order in which transformers adds them (the order decides ids of new tokens).
SPECIAL_TOKENS: dict[Kind, dict[str, str]] = {
    "byte_pair": {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END},
    "word_piece": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
}

FLAGS = ("lstrip", "normalized", "rstrip", "single_word")
"""How an added token matches."""


@dataclass(frozen=True)
class StoredVocabulary:
    """What a folder's vocabulary files say: ids, merges (byte-pair only), and tokens added later, by id."""

    kind: Kind
    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[int, AddedToken]


def read_vocabulary(folder: Path) -> StoredVocabulary:
    """Whichever of the known files the folder has. Raises UserError where it has none, or a broken one."""
    if (folder / "vocab.json").exists():
        if not (folder / "merges.txt").exists():
            raise UserError(f"The tokenizer folder {folder} has vocab.json but no merges.txt; copy the missing file.")
        # a third of the time of BPE.read_file
        vocabulary, merges = read_json(folder / "vocab.json"), _read_merges(folder / "merges.txt")
        return StoredVocabulary("byte_pair", vocabulary, merges, _read_added(folder))
    if (folder / "vocab.txt").exists():
        words = WordPiece.read_file(str(folder / "vocab.txt"))
        vocabulary = {word.removeprefix("\ufeff"): number for word, number in words.items()}  # a byte-order mark
        return StoredVocabulary("word_piece", vocabulary, [], _read_added(folder))
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError(
            f"The folder {folder} holds no tokenizer; it needs vocab.json and merges.txt (CLIP), vocab.txt (BERT)"
            " or tokenizer.json."
        )
    whole = read_json(path)
    model = whole["model"]
    added = {int(token["id"]): added_token(token) for token in whole.get("added_tokens", [])}
    if model.get("type") == "WordPiece":
        return StoredVocabulary("word_piece", model["vocab"], [], added)
    if model.get("end_of_word_suffix") == END_OF_WORD:  # the oldest files name no type
        return StoredVocabulary("byte_pair", model["vocab"], merges_of(model), added)
    raise UserError(
        f"{path} holds a {model.get('type')} tokenizer; only CLIP's byte-pair and BERT's WordPiece are known."
    )


def _read_added(folder: Path) -> dict[int, AddedToken]:
    """added_tokens.json, token -> id, where files before transformers 4.34 list tokens that a user added."""
    listed = read_json(folder / "added_tokens.json", optional=True)
    return {int(index): AddedToken(text, normalized=True, special=False) for text, index in listed.items()}


def added_tokens(config: Mapping[str, Any], stored: StoredVocabulary) -> list[AddedToken]:
    """Every added token in the order of ids, so that the library gives out the same ids again."""
    listed = {int(index): added_token(token) for index, token in config.get("added_tokens_decoder", {}).items()}
    both = {**stored.added, **listed}
    return [both[index] for index in sorted(both)]


def merges_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs of a tokenizer.json's model, which older versions of the library write as "left right"."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", []))
    return [(left, right) for left, right in pairs]


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """merges.txt: a pair of tokens a line, in no token of which there is a blank."""
    version, _, rest = read_text(path).partition("\n")
    text = rest if version.startswith("#version") else f"{version}\n{rest}"
    words = text.split()
    if len(words) != 2 * (text.rstrip("\n").count("\n") + 1 if words else 0):
        wrong = next(line for line in text.split("\n") if len(line.split()) != 2)
        raise UserError(f"{path} has the line {wrong!r}, which is no pair of tokens; fetch the file again.")
    return list(zip(words[::2], words[1::2], strict=True))


def read_special_tokens(folder: Path, config: Mapping[str, Any], stored: StoredVocabulary) -> dict[str, AddedToken]:
    """Role -> token, with transformers' order of precedence."""
    known = {token.content: token for token in added_tokens(config, stored)}
    found: dict[str, Any] = {**SPECIAL_TOKENS[stored.kind]}
    found |= {role: config[role] for role in found if config.get(role) is not None}
    # Since transformers 4.34 a folder's config lists its added tokens; then special_tokens_map.json is a leftover.
    if "added_tokens_decoder" not in config:
        overrides = read_json(folder / "special_tokens_map.json", optional=True)
        found |= {role: overrides[role] for role in found if overrides.get(role) is not None}
    return {role: known.get(_text_of(token), added_token(token, special=True)) for role, token in found.items()}


def _text_of(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def added_token(token: Any, *, special: bool | None = None) -> AddedToken:
    """A token as JSON files spell it, a string (special) or an object with its matching rules -> AddedToken."""
    if not isinstance(token, dict):
        return AddedToken(str(token), special=True)  # special implies normalized=False: it matches text as typed
    rules = {name: bool(token[name]) for name in FLAGS if name in token}
    return AddedToken(
        token["content"], special=bool(token.get("special", False)) if special is None else special, **rules
    )


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A file's JSON object; an optional file that is not there gives an empty one."""
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({reason(error)}); fetch it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__} instead of an object; fetch it again.")
    return content
