"""Text files as people and their programs write them: cut at line feeds alone, with a byte-order mark or without."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from diafano.checkpoints.reading import read_json as read_model_json
from diafano.engine.memory import MappedFiles
from diafano.errors import UserError
from diafano.files import lines_of
from diafano.jobs.experiment.axes import read_prompts
from diafano.jobs.experiment.table import known_seconds
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.tokenizer import Tokenizer
from diafano.text_encoder.tokenizer_files import read_json as read_tokenizer_json
from diafano.training.data.folder import PictureFolder
from diafano.training.recipe import AutoencoderRecipe, read_recipe

CASES = Path(__file__).parent / "cases"
MARK = "\ufeff"
KIN = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""Where `str.splitlines` cuts beside line feeds."""


def pictures(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(folder / name)


def prompts(path: Path, mark: str, inside: str) -> list[str]:
    (path / "p.txt").write_text(f"{mark}a cat {inside}on white\na dog\n", encoding="utf-8")
    return list(read_prompts(path / "p.txt").labels)


def prompts_as_json(path: Path, mark: str, inside: str) -> list[str]:
    lines = [json.dumps({"prompt": one}, ensure_ascii=False) for one in (f"a cat {inside}on white", "a dog")]
    (path / "p.jsonl").write_text(mark + "\n".join(lines), encoding="utf-8")
    return list(read_prompts(path / "p.jsonl").labels)


def captions_as_json(path: Path, mark: str, inside: str) -> list[str]:
    pictures(path)
    rows = [{"file_name": "a.png", "text": f"a cat {inside}on white"}, {"file_name": "b.png", "text": "a dog"}]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (path / "metadata.jsonl").write_text(mark + text + "\n", encoding="utf-8")
    return [caption for _, caption in PictureFolder(path, 16).captions]


def captions_as_csv(path: Path, mark: str, inside: str) -> list[str]:
    pictures(path)
    text = f"{mark}file_name,text\na.png,a cat {inside}on white\nb.png,a dog\n"
    (path / "metadata.csv").write_text(text, encoding="utf-8")
    return [caption for _, caption in PictureFolder(path, 16).captions]


def captions_beside(path: Path, mark: str, inside: str) -> list[str]:
    pictures(path)
    (path / "a.txt").write_text(f"{mark}a cat {inside}on white\n", encoding="utf-8")
    (path / "b.txt").write_text(f"{mark}a dog", encoding="utf-8")
    return [caption for _, caption in PictureFolder(path, 16).captions]


def table_of_an_experiment(path: Path, mark: str, inside: str) -> list[str]:
    text = f"{mark}file,prompt,seconds\na.png,a cat {inside}on white,1.5\nb.png,a dog,2.5\n"
    (path / "table.csv").write_text(text, encoding="utf-8", newline="")
    found = known_seconds(path / "table.csv")
    return ["a cat on white", "a dog"] if found == {"a.png": "1.5", "b.png": "2.5"} else [str(found)]


LISTS: dict[str, Callable[[Path, str, str], list[str]]] = {
    "prompts": prompts,
    "prompts as JSON": prompts_as_json,
    "captions as JSON": captions_as_json,
    "captions as CSV": captions_as_csv,
    "captions beside pictures": captions_beside,
    "an experiment's table": table_of_an_experiment,
}


@pytest.mark.parametrize("mark", ["", MARK], ids=["no mark", "a mark"])
@pytest.mark.parametrize("inside", ["", *KIN], ids=lambda one: f"U+{ord(one):04X}" if one else "nothing")
@pytest.mark.parametrize("kind", LISTS)
def test_lists_end_at_line_feeds_alone(kind: str, inside: str, mark: str, tmp_path: Path) -> None:
    found = LISTS[kind](tmp_path, mark, inside)
    assert [" ".join(one.split()) for one in found] == ["a cat on white", "a dog"]


def test_a_line_s_end_is_dos_s_too(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"a cat\r\na dog\r\n")
    assert read_prompts(tmp_path / "p.txt").labels == ("a cat", "a dog")
    assert lines_of("") == [] and lines_of("a\n\n") == ["a", ""] and lines_of("a") == ["a"]


def with_mark(path: Path) -> Path:
    text = path.read_text(encoding="utf-8")
    path.write_text(text if text.startswith(MARK) else MARK + text, encoding="utf-8")
    return path


@pytest.mark.parametrize("read", [read_model_json, read_tokenizer_json])
def test_json_with_a_mark(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(MARK + '{"a": "\u2028"}', encoding="utf-8")
    assert read(tmp_path / "c.json") == {"a": "\u2028"}


@pytest.mark.parametrize("kind", ["byte_pair", "word_piece"])
def test_a_tokenizer_s_files_with_marks(kind: str, tiny_model: StableDiffusion, tmp_path: Path) -> None:
    if kind == "byte_pair":
        tiny_model.tokenizer.save(tmp_path)
    else:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]
        (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    plain = Tokenizer.from_folder(tmp_path)("a cat").tolist()
    for path in tmp_path.iterdir():
        with_mark(path)
    assert Tokenizer.from_folder(tmp_path)("a cat").tolist() == plain


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_recipes_with_a_mark(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ae.{suffix}"
    if suffix == "toml":
        shutil.copy(CASES / "ae_bom.toml", path)
    else:
        pytest.importorskip("yaml")
        path.write_text(
            "output: work/tr/ae\ncrop: 32\ndata: {kind: folder, folder: inputs/trainset, size: 64}\n"
            "network: {widths: [8, 16, 16], layers: 1, groups: 8, middle_attention: false}\nloop: {steps: 6}\n",
            encoding="utf-8",
        )
    assert read_recipe(with_mark(path), AutoencoderRecipe).crop == 32


PROMPTS = {
    "{a|b} cat\nred dog\n": ("{a|b} cat", "red dog"),
    '{"red"|"blue"} cat\nred dog': ('{"red"|"blue"} cat', "red dog"),
    "{a}\n": ("{a}",),
    "{ {a|b} | c } cat": ("{ {a|b} | c } cat",),
    '{"prompt": "a cat"}\n{"prompt": "a dog"}': ("a cat", "a dog"),
    '  { "prompt" : "a cat"}': ("a cat",),
    'a dog\n{"prompt": "a cat"}': ("a dog", "a cat"),
    "[a|b] cat\n[1]": ("[a|b] cat", "[1]"),
}


@pytest.mark.parametrize("text", PROMPTS)
def test_a_brace_makes_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt").labels == PROMPTS[text]


@pytest.mark.parametrize("text", ['{"prompt": "a cat"', '{"prompt": }', "{}"])
def test_broken_json_is_no_prompt(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="line 1 of"):
        read_prompts(tmp_path / "p.txt")


def test_the_cases_from_the_field() -> None:
    assert read_prompts(CASES / "prompts_u2028.txt").labels == ("a cat\u2028on white", "a dog")
    assert read_prompts(CASES / "prompts_brace.txt").labels == ("{a|b} cat", "red dog")
    assert read_recipe(CASES / "ae_bom.toml", AutoencoderRecipe).data.size == 64


def test_a_model_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """What the system says of mapped files has their names, one a line."""
    import torch

    path = tmp_path / f"models{KIN}" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(bytes(4096))
    mapped = torch.UntypedStorage.from_file(str(path), False, 4096)
    MappedFiles().forget(mapped.data_ptr(), 4096)
    assert path.read_bytes() == bytes(4096)
