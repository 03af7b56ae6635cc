"""Folders as people have them: linked folders inside, hidden files, and none of what is looked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diafano
from diafano.checkpoints.addon_files import files_in
from diafano.errors import Notes, UserError
from diafano.files import files_below
from diafano.training.data.folder import PictureFolder
from helpers import told


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16)).save(path)
    path.with_suffix(".txt").write_text("a cat", encoding="utf-8")


def weights(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.zeros(1, 16)}, path)


def pictures_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path, _ in PictureFolder(folder, 16).captions]


def addons_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_in(folder)]


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], list[str]], str]] = {
    "training pictures": (picture, pictures_in, "png"),
    "add-ons": (weights, addons_in, "safetensors"),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[Callable[[Path], None], Callable[[Path], list[str]], str]:
    return READERS[request.param]


Reader = tuple[Callable[[Path], None], Callable[[Path], list[str]], str]


def test_linked_folders_and_files_are_entered(reader: Reader, tmp_path: Path) -> None:
    make, found, suffix = reader
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    make(root / f"a.{suffix}")
    make(elsewhere / "deep" / f"b.{suffix}")
    make(tmp_path / f"c.{suffix}")
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / f"c.{suffix}").symlink_to(tmp_path / f"c.{suffix}")
    if suffix == "png":
        (root / "c.txt").write_text("a cat", encoding="utf-8")
    assert found(root) == [f"a.{suffix}", f"c.{suffix}", f"linked/deep/b.{suffix}"]


@pytest.mark.parametrize("where", ["itself", "its parent", "beside", "twice"])
def test_loops_are_told_and_nothing_counts_twice(reader: Reader, where: str, tmp_path: Path) -> None:
    make, found, suffix = reader
    root = tmp_path / "root"
    make(root / "in" / f"a.{suffix}")
    target = {"itself": root, "its parent": tmp_path, "beside": root / "in", "twice": tmp_path / "other"}[where]
    if where == "twice":
        make(target / f"b.{suffix}")
        (root / "first").symlink_to(target, target_is_directory=True)
    (root / "in" / "link" if where != "beside" else root / "link").symlink_to(target, target_is_directory=True)
    with told("whose files are there already: they count once"):
        names = found(root)
    assert names == [f"in/a.{suffix}"] if where != "twice" else [f"first/b.{suffix}", f"in/a.{suffix}"]


def test_hidden_files_are_none(reader: Reader, tmp_path: Path) -> None:
    make, found, suffix = reader
    root = tmp_path / ".root"  # that the folder itself is hidden is what was asked for
    for name in ("a", "._a", ".b", ".trash/c", ".trash/deep/d", "__MACOSX/._a"):
        make(root / f"{name}.{suffix}")
    (root / f"._x.{suffix}").write_bytes(b"not what its name says")
    assert found(root) == [f"a.{suffix}"]


def test_a_link_to_nothing_is_told(reader: Reader, tmp_path: Path) -> None:
    make, found, suffix = reader
    make(tmp_path / f"a.{suffix}")
    (tmp_path / f"b.{suffix}").symlink_to(tmp_path / "nowhere")
    with told("links to what is not there: it is left out"):
        assert found(tmp_path) == [f"a.{suffix}"]


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a").write_text("a")
    real = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "in":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with told(r"cannot be read \(Permission denied\): it is left out"):
        assert files_below(tmp_path) == [tmp_path / "a"]


def test_a_table_may_name_what_is_in_a_linked_folder(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    table = tmp_path / "root" / "metadata.jsonl"
    table.write_text(json.dumps({"file_name": "linked/a.png", "text": "a cat"}), encoding="utf-8")
    assert len(PictureFolder(tmp_path / "root", 16)) == 1
    for outside in ("../elsewhere/a.png", "linked/../../elsewhere/a.png", str(tmp_path / "elsewhere" / "a.png")):
        table.write_text(json.dumps({"file_name": outside, "text": "a cat"}), encoding="utf-8")
        with pytest.raises(UserError, match="lies outside the folder"):
            PictureFolder(tmp_path / "root", 16)


@pytest.mark.parametrize("holds", ["nothing", "other files", "hidden files"])
@pytest.mark.parametrize(("option", "kind"), [("loras", "LoRA"), ("embeddings", "textual inversion")])
def test_a_folder_without_add_ons_says_so(
    option: str, kind: str, holds: str, tiny_folder: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    if holds == "other files":
        (given / "readme.md").write_text("nothing")
        (given / "style.safetensor").write_bytes(b"")
    elif holds == "hidden files":
        weights(given / "._style.safetensors")
    with told(rf"there are no {kind}s in the folder .*given: give one that has files ending in \.safetensors"):
        if option == "loras":
            diafano.load(tiny_folder, loras=given)
        else:
            diafano.load(tiny_folder, embeddings=[given])


def test_a_folder_with_add_ons_says_nothing(tiny_folder: Path, tmp_path: Path, notes: Notes) -> None:
    weights(tmp_path / "given" / "deep" / "style.safetensors")
    diafano.load(tiny_folder, embeddings=[tmp_path / "given"])
    assert not notes
