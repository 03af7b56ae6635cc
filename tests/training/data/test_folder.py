"""Folders of captioned pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.training.data.folder import PictureFolder
from helpers import told


def add(path: Path, colour: str = "red", size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_captions_beside_pictures(tmp_path: Path) -> None:
    add(tmp_path / "b.png", "blue")
    add(tmp_path / "a.JPG", "red")
    add(tmp_path / "more" / "c.webp", "lime")
    for name, text in (("b", "  a blue\nwall \n"), ("a", "\ufeffa red wall"), ("more/c", "un muro verde è qui")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    folder = PictureFolder(tmp_path, 16)
    assert len(folder) == 3
    examples = [folder.example(index) for index in range(3)]
    assert [example.caption for example in examples] == ["a red wall", "a blue wall", "un muro verde è qui"]
    assert all(example.pixels.shape == (16, 16, 3) and example.pixels.dtype == np.uint8 for example in examples)
    np.testing.assert_allclose(examples[1].pixels.mean((0, 1)), (0, 0, 255), atol=3)
    assert folder.example(4).caption == "a blue wall"


def test_width_comes_before_height(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    assert PictureFolder(tmp_path, (24, 16)).example(0).pixels.shape == (16, 24, 3)


def test_metadata_as_json_lines(tmp_path: Path) -> None:
    add(tmp_path / "train" / "1.png")
    add(tmp_path / "not listed.png")
    row = {"file_name": "train/1.png", "text": "one", "author": "someone"}
    (tmp_path / "metadata.jsonl").write_text("\n" + json.dumps(row) + "\n\n", encoding="utf-8")
    folder = PictureFolder(tmp_path, 8)
    assert [caption for _, caption in folder.captions] == ["one"]
    assert folder.example(0).pixels.shape == (8, 8, 3)


def test_metadata_as_csv(tmp_path: Path) -> None:
    add(tmp_path / "1.png")
    add(tmp_path / "2.png")
    table = '\ufefftext,file_name\n"red, and\nwide",2.png\n"a ""wall""",1.png\n'
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    assert [c for _, c in PictureFolder(tmp_path, 8).captions] == ["red, and wide", 'a "wall"']


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.jsonl", '{"file_name": "1.png"}', "line 1 has no caption"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": "  "}', "line 1 has no caption"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": 5}', "line 1 has no caption"),
        ("metadata.jsonl", '{"text": "one"}', "no file_name"),
        ("metadata.jsonl", '{"file_name": "9.png", "text": "one"}', "'9.png', which does not exist"),
        ("metadata.jsonl", '{"file_name": "../1.png", "text": "one"}', "outside the folder"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": "one"}\n{oops', "line 2 is not JSON"),
        ("metadata.jsonl", "[1, 2]", "not a JSON object"),
        ("metadata.jsonl", "", "no pictures"),
        ("metadata.csv", "", "columns"),
        ("metadata.csv", "picture,words\n1.png,one\n", "columns"),
        ("metadata.csv", "file_name,text\n1.png\n", "line 2 has no caption"),
        ("metadata.csv", "file_name,text\n,one\n", "no file_name"),
        ("metadata.csv", "file_name,text\n", "no pictures"),
    ],
)
def test_a_wrong_table_is_one_clear_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    add(tmp_path / "1.png")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        PictureFolder(tmp_path, 8)


def test_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="UTF-8"):
        PictureFolder(tmp_path, 8)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        PictureFolder(tmp_path / "nowhere", 8)
    with pytest.raises(UserError, match="no pictures"):
        PictureFolder(tmp_path, 8)
    add(tmp_path / "apple.png")
    with pytest.raises(UserError, match=r"apple\.png has no caption"):
        PictureFolder(tmp_path, 8)
    (tmp_path / "apple.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"apple\.txt has no caption"):
        PictureFolder(tmp_path, 8)
    (tmp_path / "apple.txt").write_text("an apple", encoding="utf-8")
    with pytest.raises(UserError, match="0x8"):
        PictureFolder(tmp_path, (0, 8))
    for name in ("metadata.jsonl", "metadata.csv"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="keep one"):
        PictureFolder(tmp_path, 8)


def test_a_broken_picture_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    folder = PictureFolder(tmp_path, 8)
    with pytest.raises(UserError, match=r"a\.png"):
        folder.example(0)


@pytest.mark.parametrize("suffix", [".TXT", ".Txt", ".caption", ".CAPTION"])
def test_captions_of_any_ending(tmp_path: Path, suffix: str) -> None:
    """bmaltais/kohya_ss 1370, 1936 and 988, kijai/ComfyUI-FluxTrainer 72: the caption was there."""
    add(tmp_path / "a.PNG")
    (tmp_path / f"a{suffix}").write_text("a wall", encoding="utf-8")
    assert PictureFolder(tmp_path, 16).caption(0) == "a wall"


def test_of_two_captions_the_txt_is_read(tmp_path: Path) -> None:
    add(tmp_path / "a.png")
    for suffix in (".caption", ".TXT", ".txt"):
        (tmp_path / f"a{suffix}").write_text(suffix, encoding="utf-8")
    assert PictureFolder(tmp_path, 16).caption(0) == ".txt"


def test_a_pictures_ending_elsewhere_in_its_path(tmp_path: Path) -> None:
    """Comfy-Org/ComfyUI 16213."""
    for name in ("train.png/photo", "photo.png.crop", "a.b.c"):
        add(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    assert {caption for _, caption in PictureFolder(tmp_path, 16).captions} == {
        "train.png/photo",
        "photo.png.crop",
        "a.b.c",
    }


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """hollowstrawberry/kohya-colab 23, bmaltais/kohya_ss 981: pictures were there and not seen."""
    add(tmp_path / "a.png")
    for name in ("a.txt", "b.heic", "b.txt", "c.txt", "d.avif"):
        (tmp_path / name).write_text("a wall", encoding="utf-8")
    with told("2 pictures") as notes:
        assert len(PictureFolder(tmp_path, 16)) == 1
    assert notes == [
        f"2 pictures, {tmp_path / 'b.heic'} the first, are left out, as that form is not read: save them as PNG, JPEG"
        " or WebP",
        f"the caption {tmp_path / 'c.txt'} is left out, as no picture of that name is beside it",
    ]


def test_a_table_from_windows(tmp_path: Path) -> None:
    add(tmp_path / "train" / "1.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\r\ntrain\\1.png,one\r\n", encoding="utf-8", newline="")
    assert PictureFolder(tmp_path, 16).caption(0) == "one"


# ---- what can be in a file and in no caption or name

ROW = {"file_name": "a.png", "text": "a cat"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"text": "a \0 cat"}, "caption with the character NUL"),
        ({"text": "a \ud800 cat"}, r"caption with '\\ud800' in it, which is half a letter"),
        ({"file_name": "a\0.png"}, "file_name with the character NUL"),
        ({"file_name": "\udfff.png"}, r"file_name with '\\udfff' in it, which is half a letter"),
        ({"file_name": "x" * 5000 + ".png"}, "5004 letters.*File name too long"),
    ],
)
def test_what_no_caption_or_name_can_hold_is_one_sentence(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [json.dumps(ROW), json.dumps({**ROW, **changed})]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    with pytest.raises(UserError, match=rf"(?s)metadata\.jsonl, line 2 .*{said}") as raised:
        PictureFolder(tmp_path, 8)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize("table", ["[" * 100_000, "9" * 5000], ids=["nested without end", "a number without end"])
def test_json_without_end_is_one_sentence(table: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(table)
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1 is not JSON"):
        PictureFolder(tmp_path, 8)


def test_nul_in_a_caption_beside_its_picture_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"a \0 cat")
    with pytest.raises(UserError, match=r"a\.txt has a caption with the character NUL.*save it as UTF-8"):
        PictureFolder(tmp_path, 8)


def test_a_caption_that_may_not_be_read_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    monkeypatch.setattr("diafano.training.data.folder.read_text", refused)
    with pytest.raises(UserError, match=r"a\.txt' cannot be used \(Permission denied\): check its permissions"):
        PictureFolder(tmp_path, 8)
