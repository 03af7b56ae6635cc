"""The compiled UNet: how it is asked for, where its code is kept, what is said where it cannot be."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diafano
from diafano.engine import compiled
from diafano.errors import UserError
from diafano.networks.unet import UNet, UNetConfig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What torch is asked to compile; it is not done."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, **how: found.append(how))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compiled.CACHE, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    return found


def test_the_code_is_kept_where_the_next_process_finds_it(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    compiled.compile_network(nn.Linear(1, 1))
    assert asked == [{"dynamic": False}]
    assert os.environ[compiled.CACHE] == str(tmp_path / "diafano" / "compiled")


def test_a_folder_that_the_user_has_set_stays(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.CACHE, "elsewhere")
    compiled.compile_network(nn.Linear(1, 1))
    assert os.environ[compiled.CACHE] == "elsewhere"


def test_a_gpu_gets_cuda_graphs(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    class OnGPU(nn.Module):
        def parameters(self, recurse: bool = True) -> Any:
            class Weight:
                device, dtype = torch.device("cuda"), torch.float16

            return iter([Weight()])

    compiled.compile_network(OnGPU())
    # "max-autotune" is the mode that records CUDA graphs.
    assert "triton.cudagraphs" in torch._inductor.list_mode_options("max-autotune")
    assert asked == [{"mode": "max-autotune", "dynamic": False}]
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("device", "said"), [("cuda", "needs Triton"), ("cpu", "needs a C\\+\\+ compiler"), ("mps", "not for mps")]
)
def test_what_is_missing_is_said(device: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=said):
        compiled._check_tools(device)


def test_the_engines_work_is_not_compiled_once_more(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "available", lambda: True)
    with pytest.raises(UserError, match="engine of diafano's own"):
        compiled.compile_network(nn.Linear(2, 2, dtype=torch.bfloat16))
    assert asked == []
    compiled.compile_network(nn.Linear(2, 2))  # float32 is not the engine's
    assert len(asked) == 1


def test_load_compiles_the_unet_and_nothing_else(asked: list[dict[str, Any]]) -> None:
    diafano.load(device="cpu")
    assert asked == []
    diafano.load(device="cpu", compiled=True)
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside its compiler
def test_a_compiled_unet_predicts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.CACHE, str(tmp_path))
    torch.manual_seed(0)
    unet = UNet(UNetConfig(widths=(8,), layers=1, attention=(True,), heads=(2,), text_width=8, groups=4)).eval()
    given = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 700.0]), torch.randn(2, 9, 8)
    with torch.inference_mode():
        wanted = unet(*given)
        names = list(unet.state_dict())
        compiled.compile_network(unet)
        assert torch.allclose(unet(*given), wanted, atol=1e-5)
    assert list(unet.state_dict()) == names
    assert any(tmp_path.rglob("*.so")), "the compiled code lies in the folder"
