"""Weights into files, in shards; folders into place as a whole."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diafano.checkpoints.reading import read_weights
from diafano.checkpoints.writing import folder_in_place, write_weights
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
