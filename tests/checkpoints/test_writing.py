"""Weights into files, in shards; folders into place as a whole."""

import errno
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from diafano.checkpoints import writing
from diafano.checkpoints.reading import read_weights
from diafano.checkpoints.writing import check_in_place, folder_in_place, save_tensors, write_weights
from diafano.errors import UserError


def test_one_file_says_that_it_is_torchs(tmp_path: Path) -> None:
    write_weights({"x": torch.ones(2, 3).t()}, tmp_path / "part", "model")  # t(): not contiguous
    with safe_open(tmp_path / "part/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("x").shape == (3, 2)


def test_shards_are_no_longer_than_allowed_and_hold_everything(tmp_path: Path) -> None:
    weights = {f"x{i}": torch.full((10,), float(i)) for i in range(5)}  # 40 bytes each
    write_weights({**weights, "long": torch.zeros(50)}, tmp_path, "model", max_shard_bytes=100)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert [len(load_file(tmp_path / name)) for name in files] == [2, 2, 1, 1]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 40 + 200
    assert index["weight_map"]["long"] == files[3]
    read = read_weights(tmp_path, "model")
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())
    with pytest.raises(UserError, match="0 bytes"):
        write_weights(weights, tmp_path, "model", max_shard_bytes=0)


def test_a_value_that_float16_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scale.*float16"):
        write_weights({"scale": torch.tensor([7e4])}, tmp_path, "model", dtype=torch.float16)
    write_weights({"scale": torch.tensor([7e4])}, tmp_path, "model", dtype=torch.bfloat16)


def test_a_folder_appears_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with folder_in_place(target, marker="index") as staging:
        (staging / "index").write_text("1")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "index").read_text() == "1"


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "index").write_text("old")
    with pytest.raises(RuntimeError), folder_in_place(target, marker="index") as staging:
        (staging / "index").write_text("half")
        raise RuntimeError
    assert (target / "index").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_older_model_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (target / "unet").mkdir(parents=True)
    (target / "index").write_text("old")
    (target / "unet/stale").write_text("old")
    (target / "README.md").write_text("mine")
    with folder_in_place(target, marker="index") as staging:
        (staging / "index").write_text("new")
        (staging / "unet").mkdir()
    assert (target / "index").read_text() == "new"
    assert (target / "README.md").read_text() == "mine"
    assert not (target / "unet/stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_text("1")
    (tmp_path / "file").write_text("1")
    for target, said in (("photos", "other files"), ("file", "is a file"), ("absent/model", "no folder")):
        with pytest.raises(UserError, match=said), folder_in_place(tmp_path / target, marker="index"):
            pytest.fail("nothing may be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]


# ---- what ends in the middle


def old_folder(target: Path) -> None:
    target.mkdir()
    (target / "index").write_text("old")


@pytest.mark.parametrize("at", [1, 2])
def test_an_interruption_between_two_renames_loses_nothing(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    old_folder(target)
    rename, left = Path.rename, [at]

    def interrupted(self: Path, other: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return rename(self, other)

    monkeypatch.setattr(writing, "_exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), folder_in_place(target, marker="index") as staging:
        (staging / "index").write_text("new")
    assert (target / "index").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can exchange two names in one step")
def test_a_folder_takes_the_others_place_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    old_folder(target)
    with folder_in_place(target, marker="index") as staging:
        (staging / "index").write_text("new")
        # A kill between two renames would leave no folder of that name.
        monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("there was a moment without the folder"))
    assert (target / "index").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_links_stay_links(tmp_path: Path) -> None:
    old_folder(tmp_path / "far")
    (tmp_path / "far/dangling").symlink_to("absent")
    (tmp_path / "far/pictures").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("far", target_is_directory=True)
    with folder_in_place(tmp_path / "link", marker="index") as staging:
        (staging / "index").write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far/index").read_text() == "new"
    assert (tmp_path / "far/dangling").is_symlink() and (tmp_path / "far/pictures").is_symlink()


def test_the_longest_name_is_no_problem_beside_it(tmp_path: Path) -> None:
    for _ in range(2):
        with folder_in_place(tmp_path / ("x" * 255), marker="index") as staging:
            (staging / "index").write_text("new")


def test_a_closed_folder_around_it_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_folder(tmp_path / "model")

    def refused(folder: Path) -> None:
        if folder == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(writing, "check_writable", refused)
    with pytest.raises(UserError, match=r"cannot write.*Permission denied"):
        check_in_place(tmp_path / "model", marker="index")


def test_what_the_system_refuses_is_the_systems_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"

    def full(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError(said)

    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(OSError, match="No space left") as raised:
        save_tensors({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir()), "half a file is left"
