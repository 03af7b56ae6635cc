"""What "auto" stands for, and modules without weights."""

import pytest
import torch
from torch import nn

from diafano.engine import devices
from diafano.engine.devices import SMALL_MODEL, find_device, find_dtype, on_meta
from diafano.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_small_models_are_float32_everywhere() -> None:
    assert find_dtype("auto", CPU, SMALL_MODEL - 1) == find_dtype("auto", GPU, SMALL_MODEL - 1) == torch.float32


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_big_models_are_half_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: fast)
    assert find_dtype("auto", CPU, SMALL_MODEL) == expected
    assert find_dtype("auto", GPU, SMALL_MODEL) == torch.float16


@pytest.mark.parametrize(
    ("device", "fast", "said"),
    [
        (CPU, True, "bfloat16 here: this processor has"),
        (CPU, False, "float32 here: this processor has no"),
        (GPU, True, "float16 here: the GPU"),
    ],
)
def test_what_auto_chose_for_a_big_model_is_said(
    device: torch.device, fast: bool, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: fast)
    with caplog.at_level("INFO", "diafano"):
        find_dtype("auto", device, SMALL_MODEL - 1)
        find_dtype("bfloat16", device, SMALL_MODEL)
        assert caplog.messages == []
        find_dtype("auto", device, SMALL_MODEL)
    assert len(caplog.messages) == 1 and said in caplog.messages[0]


def test_a_dtype_that_is_asked_for_is_taken() -> None:
    for name in ("bfloat16", "bf16", torch.bfloat16):
        assert find_dtype(name, CPU, 1) == torch.bfloat16
    with pytest.raises(UserError, match="'int8'"):
        find_dtype("int8", CPU, 1)
    with pytest.raises(UserError, match="'float64'"):
        find_dtype(torch.float64, CPU, 1)


@pytest.mark.parametrize("name", ["cdu", "cuda:99", "xpu", ""])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match="device") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


def test_cpu_is_always_there() -> None:
    assert find_device("cpu") == find_device(torch.device("cpu")) == CPU
    assert find_device("auto").type in ("cpu", "cuda", "mps")


def test_weightless_modules_have_shapes_and_no_memory() -> None:
    with on_meta():
        layer = nn.Linear(10**6, 10**6)  # 4 TB
        nn.init.normal_(layer.weight)
        norm = nn.GroupNorm(2, 4)
    assert layer.weight.shape == (10**6, 10**6) and layer.weight.is_meta and norm.weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta
