"""Tokenizers: their own rules first, then transformers' CLIPTokenizer and BertTokenizer as the oracle, id for id."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from diafano.errors import UserError
from diafano.text_encoder.tokenizer import Tokenizer, byte_alphabet, train_byte_pair, train_word_piece

WORDS = ["apple", "banana", "cat", "dog", "penguin", "fox", "left", "of", "right", "above", "background", "red", "blue"]
CAPTIONS = [
    f"a picture of {n} {a} {b}, it's on the {c}!" for n in ("two", "3") for a in WORDS for b in WORDS for c in WORDS
]

TEXTS = [
    "",
    " ",
    "a penguin on a red background",
    "Two RED Apples",
    "don't, it's   we'll\tthey've\n\nI'd 's",
    "ñandú café cafe\u0301 ÀÉÎ ß İstanbul ﬁ Ǆ",
    "狐と梨 русский 한국어 हिन्दी العربية",
    "🦊🍐 👩‍👩‍👧 🇮🇹 ☃️",
    "1234 ½ ² ٣ 3.14e-5",
    "!!! ?! ... --- '' ''s (word:1.3) [a|b] <lora:x:1>",
    "a <|endoftext|> b <|startoftext|> c <|ENDOFTEXT|> <|endoftext|>x",
    "\u200bzero\u200dwidth\ufeff \u00a0nbsp\u3000wide \u2028line",
    "\x00\x01\x7f control",
    "word " * 74,
    "word " * 75,
    "word " * 76 + "end",
    "antidisestablishmentarianism" * 12,
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_byte_pair(CAPTIONS, 700)


@pytest.fixture(scope="module")
def clip_folder(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    trained.save(folder)
    return folder


@pytest.fixture(scope="module")
def clip_oracle(clip_folder: Path) -> transformers.CLIPTokenizer:
    return transformers.CLIPTokenizer.from_pretrained(clip_folder)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-éñ狐梨ß"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *("##" + letter for letter in letters),
        *WORDS,
    ]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", encoding="utf-8")
    return folder


def padded(oracle: transformers.PreTrainedTokenizerBase, text: str, length: int = 77) -> list[int]:
    return oracle(text, padding="max_length", truncation=True, max_length=length).input_ids


# The tokenizer's own rules


def test_a_row_is_start_text_end_padding(trained: Tokenizer) -> None:
    ids = trained(["the red cat", ""])
    assert ids.shape == (2, 77) and ids.dtype == torch.int64
    row = ids[0].tolist()
    assert row[0] == trained.start_token and row[4] == trained.end_token
    assert row[1:4] == trained.encode("the red cat")
    assert row[5:] == [trained.pad_token] * 72
    assert ids[1].tolist() == [trained.start_token, trained.end_token] + [trained.pad_token] * 75


def test_one_text_is_a_batch_of_one_and_no_text_a_batch_of_none(trained: Tokenizer) -> None:
    assert trained("a cat").shape == (1, 77)
    assert trained([]).shape == (0, 77)


def test_a_long_text_keeps_its_end_token_and_says_what_was_cut(trained: Tokenizer) -> None:
    assert trained.tokens_cut("cat " * 75) == 0
    text = "cat " * 75 + "dog fox"
    assert trained.token_count(text) == 77 and trained.tokens_cut(text) == 2
    row = trained(text)[0].tolist()
    assert row[0] == trained.start_token and row[-1] == trained.end_token
    assert row[1:-1] == trained.encode("cat " * 75)


def test_the_mask_covers_the_text_and_its_first_end(trained: Tokenizer) -> None:
    ids = trained(["red cat", "cat " * 100])
    assert trained.mask(ids).sum(dim=1).tolist() == [4, 77]
    assert trained.mask(ids)[0, :4].all()


def test_every_frequent_word_is_one_token(trained: Tokenizer) -> None:
    for word in [*WORDS, "two", "picture", "it", "'s"]:
        assert trained.token_count(word) == 1, word
    assert trained.tokens("a PENGUIN") == ["a</w>", "penguin</w>"]


def test_the_vocabulary_is_laid_out_as_clips(clip_folder: Path, trained: Tokenizer) -> None:
    vocabulary = json.loads((clip_folder / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary["!"] == 0 and vocabulary["!</w>"] == 256
    assert vocabulary["<|startoftext|>"] == len(vocabulary) - 2 == trained.start_token
    assert vocabulary["<|endoftext|>"] == len(vocabulary) - 1 == trained.end_token == trained.pad_token
    assert len(set(byte_alphabet())) == 256
    assert trained.vocabulary_size == len(vocabulary) <= 700


def test_the_vocabulary_never_exceeds_what_was_asked() -> None:
    small = train_byte_pair(CAPTIONS, 530)
    assert small.vocabulary_size == 530
    assert small.token_count("penguin") > 1
    assert small.encode("zebra 🦊")  # any text can be written, whatever was seen


def test_training_twice_gives_the_same_tokens(trained: Tokenizer) -> None:
    again = train_byte_pair(reversed(CAPTIONS), 700)
    assert torch.equal(again(TEXTS), trained(TEXTS))


def test_a_saved_tokenizer_reads_back(clip_folder: Path, trained: Tokenizer) -> None:
    assert {path.name for path in clip_folder.iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    assert torch.equal(Tokenizer.from_folder(clip_folder)(TEXTS), trained(TEXTS))


def test_a_shorter_length_is_kept(tmp_path: Path) -> None:
    train_byte_pair(CAPTIONS, 600, length=16).save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).length == 16
    assert Tokenizer.from_folder(tmp_path)("cat").shape == (1, 16)


# Against transformers


@pytest.mark.parametrize("text", TEXTS)
def test_clip_ids_are_transformers(trained: Tokenizer, clip_oracle: transformers.CLIPTokenizer, text: str) -> None:
    assert trained(text)[0].tolist() == padded(clip_oracle, text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=120))
def test_clip_ids_are_transformers_on_any_text(
    trained: Tokenizer, clip_oracle: transformers.CLIPTokenizer, text: str
) -> None:
    assert trained(text)[0].tolist() == padded(clip_oracle, text)


def test_the_padding_token_is_read_from_either_file(clip_folder: Path, tmp_path: Path) -> None:
    """Stable Diffusion v2's folders: the config names the end token, special_tokens_map.json names ``!``, id 0."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    end = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start = {**end, "content": "<|startoftext|>"}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": {"__type": "AddedToken", **start},
        "eos_token": {"__type": "AddedToken", **end},
        "unk_token": {"__type": "AddedToken", **end},
        "pad_token": "<|endoftext|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path)("cat")[0, -1] == Tokenizer.from_folder(tmp_path).end_token

    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "!"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    ours = Tokenizer.from_folder(tmp_path)
    oracle = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert ours.pad_token == 0 and ours("cat")[0, -1] == 0
    for text in [*TEXTS, "a cat!", "wow!! !", "!"]:
        assert ours(text)[0].tolist() == padded(oracle, text), text

    ours.save(tmp_path / "saved")  # and the padding token survives being saved
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path / "saved")
    for text in [*TEXTS, "a cat!"]:
        assert ours(text)[0].tolist() == padded(again, text), text
        assert Tokenizer.from_folder(tmp_path / "saved")(text)[0].tolist() == padded(again, text), text


def test_files_without_any_config_get_clips_defaults(clip_folder: Path, trained: Tokenizer, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    assert torch.equal(Tokenizer.from_folder(tmp_path)(TEXTS), trained(TEXTS))


def test_a_folder_that_transformers_saved_reads_the_same(
    clip_oracle: transformers.CLIPTokenizer, trained: Tokenizer, tmp_path: Path
) -> None:
    """transformers 5 writes tokenizer.json and no vocab.json."""
    clip_oracle.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    assert torch.equal(Tokenizer.from_folder(tmp_path)(TEXTS), trained(TEXTS))


def test_added_tokens_keep_their_ids(clip_folder: Path, tmp_path: Path) -> None:
    oracle = transformers.CLIPTokenizer.from_pretrained(clip_folder)
    oracle.add_tokens(["<my-cat>", "<dog-2>"])
    oracle.save_pretrained(tmp_path / "first")
    ours = Tokenizer.from_folder(tmp_path / "first")
    ours.save(tmp_path / "second")
    text = "a <my-cat> and <DOG-2><dog-2> on red"
    assert ours.vocabulary_size == len(oracle)
    assert oracle.convert_tokens_to_ids("<my-cat>") in ours.encode(text)
    assert ours(text)[0].tolist() == padded(oracle, text)
    assert Tokenizer.from_folder(tmp_path / "second")(text)[0].tolist() == padded(oracle, text)


def test_tokens_of_the_oldest_kind_of_file_are_read(clip_folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    first = Tokenizer.from_folder(clip_folder).vocabulary_size
    added = {"<my-cat>": first + 1, "<dog-2>": first}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    oracle = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    text = "a <my-cat> and <DOG-2><dog-2> on red"
    assert first + 1 in Tokenizer.from_folder(tmp_path).encode(text)
    assert Tokenizer.from_folder(tmp_path)(text)[0].tolist() == padded(oracle, text)


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_bert_ids_are_transformers(bert_folder: Path, tmp_path: Path, config: dict[str, bool]) -> None:
    (tmp_path / "vocab.txt").write_bytes((bert_folder / "vocab.txt").read_bytes())
    if config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    oracle = transformers.BertTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    ours.save(tmp_path / "saved")
    oracle.save_pretrained(tmp_path / "theirs")
    for text in [*TEXTS, "[MASK] a [SEP] cat", "foxes & cats", "FOX", "a" * 120]:
        expected = padded(oracle, text)
        assert ours(text)[0].tolist() == expected, text
        assert Tokenizer.from_folder(tmp_path / "saved")(text)[0].tolist() == expected, text
        assert Tokenizer.from_folder(tmp_path / "theirs")(text)[0].tolist() == expected, text
        assert padded(transformers.BertTokenizer.from_pretrained(tmp_path / "saved"), text) == expected, text


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=120))
def test_bert_ids_are_transformers_on_any_text(bert_folder: Path, text: str) -> None:
    oracle = transformers.BertTokenizer.from_pretrained(bert_folder)
    assert Tokenizer.from_folder(bert_folder)(text)[0].tolist() == padded(oracle, text)


# What a user gets told


def test_errors_name_the_cause(clip_folder: Path, tmp_path: Path, trained: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"no tokenizer folder at .*nowhere"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no tokenizer; it needs vocab\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_bytes((clip_folder / "vocab.json").read_bytes())
    with pytest.raises(UserError, match=r"no merges\.txt"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nno-such piece\n", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "merges.txt").write_bytes((clip_folder / "merges.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer_config\.json cannot be read as JSON"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"lstrip": false}}', encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(UserError, match="must be text, not int"):
        trained([7])  # type: ignore[list-item]
    with pytest.raises(UserError, match="not valid Unicode"):
        trained("a cat \ud800")


def test_training_refuses_what_cannot_work() -> None:
    with pytest.raises(UserError, match="vocabulary of 513 tokens is too small"):
        train_byte_pair(CAPTIONS, 513)
    with pytest.raises(UserError, match="not one string"):
        train_byte_pair("a cat", 600)
    with pytest.raises(UserError, match="give more captions"):
        train_byte_pair([], 600)
    assert train_byte_pair([], 514).vocabulary_size == 514  # bytes alone were asked for


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}', encoding="utf-8")
    with pytest.raises(UserError, match="holds a Unigram tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_word_pieces_are_learnt_and_are_transformers(tmp_path: Path) -> None:
    captions = ["a fox and a bee", "two foxes", "un'ape gialla e una volpe", "Due volpi e un caffè", "a fox"] * 3
    learnt = train_word_piece(captions, 120, length=16)
    assert learnt.kind == "word_piece" and learnt.pad_token == 0
    assert learnt.tokens("a fox") == ["a", "fox"]
    learnt.save(tmp_path)
    oracle = transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in [*captions, "a foxy box?", "CAFFÈ", "xyz 狐"]:
        assert learnt(text)[0].tolist() == padded(oracle, text, 16), text
    again = train_word_piece(captions, 120, length=16)
    assert [again.name_of(token) for token in range(60)] == [learnt.name_of(token) for token in range(60)]
    assert Tokenizer.from_folder(tmp_path)("two foxes").tolist() == learnt("two foxes").tolist()


@pytest.mark.parametrize(
    ("captions", "size", "said"), [(["a fox"], 8, "too small"), ([], 100, "no words"), ("a", 9, "several")]
)
def test_word_pieces_that_cannot_be_learnt(captions: list[str], size: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        train_word_piece(captions, size)


def test_a_locale_without_letters_is_what_is_told(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match=r"set LC_ALL=C\.UTF-8"):
        trained(["a \udcf0 cat"])
