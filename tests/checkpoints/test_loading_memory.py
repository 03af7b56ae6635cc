"""What loading a model costs: files are mapped, converted weights and their files are not both in memory."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.reading import assign_weights, read_safetensors
from diafano.engine.devices import to_channels_last
from diafano.engine.memory import MappedFiles, without_collecting
from diafano.networks.unet import UNet, UNetConfig
from diafano.stable_diffusion import StableDiffusion

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PROGRAM = """
import json, resource, sys, torch
import diafano, diafano.checkpoints.diffusers
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = diafano.load(sys.argv[1], device="cpu", dtype=sys.argv[2])
parts = (model.text_encoder, model.unet, model.autoencoder)
for part in parts:
    for weight in part.parameters():
        weight.detach().sum()  # reads every page
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bytes_of_weights = sum(weight.nbytes for part in parts for weight in part.parameters())
print(json.dumps({"grown": (after - before) * 1024, "weights": bytes_of_weights}))
"""


@pytest.fixture(scope="module")
def wide_folder(tiny_model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 MB in float16: enough to be seen beside what a process takes anyway."""
    config = tiny_model.unet.config.model_copy(update={"widths": (128, 512), "layers": 3})
    wide = StableDiffusion(**{**vars(tiny_model), "unet": UNet(config).eval()})
    folder = tmp_path_factory.mktemp("wide") / "model"
    save_folder(wide, folder, "float16")
    return folder


@LINUX
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_is_in_memory_once(wide_folder: Path, dtype: str) -> None:
    """In its own format it stays in the file; converted, it takes the place of the file's pages."""
    command = [sys.executable, "-c", PROGRAM, str(wide_folder), dtype]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert found["weights"] > 100e6
    assert found["grown"] <= 1.3 * found["weights"]


@LINUX
def test_loading_leaves_the_weights_in_the_file(wide_folder: Path) -> None:
    model = diafano.load(wide_folder, device="cpu", dtype="float16")
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(wide_folder) in line:
            start, end = line.split()[0].split("-")
            ranges.append((int(start, 16), int(end, 16)))
    for part in (model.unet, model.autoencoder, model.text_encoder):
        for name, weight in part.named_parameters():
            assert any(start <= weight.data_ptr() < end for start, end in ranges), name


def test_convolutions_are_laid_out_before_they_run(tmp_path: Path) -> None:
    config = UNetConfig(widths=(32, 64), layers=1, attention=(True, False), heads=(2, 2), text_width=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = UNet(config).bfloat16().eval()
    save_tensors(made.state_dict(), tmp_path / "unet.safetensors")
    loaded = UNet(config)
    weights, _ = read_safetensors(tmp_path / "unet.safetensors")
    assign_weights(loaded, weights, device=torch.device("cpu"), dtype=torch.bfloat16, where="test")
    weight = cast(Any, loaded).down_blocks[0].resnets[0].conv1.weight
    assert weight.is_contiguous()
    with torch.inference_mode():
        to_channels_last(loaded)
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_inference()
    assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), made.parameters(), strict=True))
    arguments = (torch.randn(1, 4, 8, 8).bfloat16(), torch.tensor([3.0]), torch.randn(1, 5, 16).bfloat16())
    loaded(*arguments).sum().backward()  # it can still be trained
    assert weight.grad is not None
    converted = UNet(config)
    assign_weights(converted, weights, device=torch.device("cpu"), dtype=torch.float16, where="test")
    weight = cast(Any, converted).down_blocks[0].resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        weight.float(), cast(Any, made).down_blocks[0].resnets[0].conv1.weight.float(), atol=1e-4, rtol=0
    )


@LINUX
def test_pages_of_files_are_forgotten_and_come_again(tmp_path: Path) -> None:
    save_tensors({"a": torch.arange(2**22, dtype=torch.float32)}, tmp_path / "a.safetensors")
    tensor = read_safetensors(tmp_path / "a.safetensors")[0]["a"]

    def in_use() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    assert float(tensor[-1]) == 2**22 - 1 and float(tensor.sum()) > 0
    gc.collect()
    before = in_use()
    MappedFiles().forget(tensor.data_ptr(), tensor.nbytes)
    assert before - in_use() > 2**23
    assert torch.equal(tensor, torch.arange(2**22, dtype=torch.float32))
    own = torch.ones(2**20)
    MappedFiles().forget(own.data_ptr(), own.nbytes)
    assert bool((own == 1).all())


def test_the_collector_waits_and_goes_on() -> None:
    seen = []

    @without_collecting()
    def loads() -> None:
        seen.append(gc.isenabled())
        raise ValueError

    assert gc.isenabled()
    with pytest.raises(ValueError):
        loads()
    assert seen == [False] and gc.isenabled()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e5m2]
)
def test_every_format_is_mapped_as_the_library_does(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "some": (torch.randn(3, 5) * 9).to(dtype),
        "none": torch.zeros(0, 4, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
        "odd": torch.ones(3, dtype=torch.uint8),  # what follows it is not aligned
    }
    save_tensors(tensors, tmp_path / "x.safetensors", {"note": "kept"})
    found, notes = read_safetensors(tmp_path / "x.safetensors")
    assert notes == {"note": "kept"} and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float())


@LINUX
@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_inspecting_a_file_has_one_tensor_at_a_time_in_memory(wide_folder: Path, tmp_path: Path, kind: str) -> None:
    unet = load_tensors(wide_folder / "unet/diffusion_pytorch_model.safetensors")
    names = {f"first_stage_model.decoder.{name}": tensor for name, tensor in unet.items()}
    small = {"broken": torch.full((1,), torch.nan)}
    path = tmp_path / f"model.{kind}"
    if kind == "ckpt":
        torch.save({"state_dict": names | small}, path)
    else:
        save_tensors(names | small, path)
    program = INSPECTION.format(path=str(path))
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    size, grown = path.stat().st_size, int(found.stdout)
    assert size > 100e6 and grown < size / 2


INSPECTION = """
import resource, types
from pathlib import Path
from diafano.checkpoints import recognise
from diafano.checkpoints.reading import read_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors = read_file(Path({path!r}))
said = types.SimpleNamespace(odd_schedule=False)
original = types.SimpleNamespace(parts=["all"], used=lambda _: tensors, tensors=tensors, said=said)
assert len(list(recognise.suspicions(original))) == 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
