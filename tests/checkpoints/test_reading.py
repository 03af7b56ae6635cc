"""Weights into modules: strict, memory-mapped, from one file or shards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diafano.checkpoints.reading import assign_weights, read_json, read_weights
from diafano.engine.devices import on_meta
from diafano.errors import UserError

CPU = torch.device("cpu")


def linear() -> nn.Linear:
    with on_meta():
        return nn.Linear(3, 2)


def weights() -> dict[str, Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def assign(changed: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> nn.Linear:
    module = linear()
    assign_weights(module, changed, device=CPU, dtype=dtype, where="unet")
    return module


def test_weights_take_their_places() -> None:
    module = assign(weights(), torch.bfloat16)
    assert module.weight.dtype == torch.bfloat16 and not module.training
    assert torch.equal(module.weight.float(), weights()["weight"])
    assert module.weight.requires_grad  # a loaded model can be trained further


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weight": torch.zeros(2, 3)}, "lacks bias"),
        ({**weights(), "extra.scale": torch.zeros(1)}, "has extra.scale"),
        ({**weights(), "bias": torch.zeros(3)}, r"bias \(3,\) instead of \(2,\)"),
        ({**weights(), **{f"x{i}": torch.zeros(1) for i in range(9)}}, "x0, x1, x2 and 6 more"),
    ],
)
def test_a_wrong_tensor_is_named(changed: dict[str, Tensor], said: str) -> None:
    with pytest.raises(UserError, match=f"unet.*{said}"):
        assign(changed)


def test_a_file_is_mapped_not_read(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.safetensors")
    module = assign(read_weights(tmp_path, "model"))
    # In the file the two tensors touch; memory of their own would be aligned to 64 bytes and apart.
    first, second = sorted((module.weight, module.bias), key=lambda tensor: tensor.data_ptr())
    assert second.data_ptr() - first.data_ptr() == first.nbytes


def test_the_copy_in_half_precision_is_taken_when_it_is_wanted_or_alone(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1, dtype=torch.float16)}, tmp_path / "model.fp16.safetensors")
    assert read_weights(tmp_path, "model")["x"].dtype == torch.float16
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path, "model")["x"].dtype == torch.float32
    assert read_weights(tmp_path, "model", prefer_half=True)["x"].dtype == torch.float16


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "model.safetensors.index.fp16.json"])
def test_shards_are_found_through_their_index(tmp_path: Path, index: str) -> None:
    save_file({"weight": weights()["weight"]}, tmp_path / "first.safetensors")
    save_file({"bias": weights()["bias"]}, tmp_path / "second.safetensors")
    weight_map = {"weight": "first.safetensors", "bias": "second.safetensors"}
    (tmp_path / index).write_text(json.dumps({"weight_map": weight_map}))
    assert read_weights(tmp_path, "model").keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"weight": "absent.safetensors"}, "absent.safetensors"),
        ({"weight": "first.safetensors", "bias": "first.safetensors"}, "lack bias"),
        ({"weight": "../first.safetensors"}, "outside"),
        (None, "weight_map"),
    ],
)
def test_a_broken_index_is_one_sentence(tmp_path: Path, weight_map: object, said: str) -> None:
    save_file({"weight": weights()["weight"]}, tmp_path / "first.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path, "model")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
        read_weights(tmp_path, "model")


def test_missing_and_broken_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        read_weights(tmp_path, "model")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="is a text that begins"):
        read_weights(tmp_path, "model")
    with pytest.raises(UserError, match="missing"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="JSON list"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        read_json(tmp_path / "config.json")
