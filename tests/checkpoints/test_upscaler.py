"""Upscalers from files: every form of names and file that people have, and what is none of these said by its name."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import diafano
from diafano.checkpoints.upscaler import load_upscaler, save_upscaler
from diafano.engine.enlarging import enlarged
from diafano.engine.upscaler import NetworkUpscaler
from diafano.errors import UserError
from diafano.networks.compact import Compact, CompactConfig
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig

Tensors = dict[str, Tensor]


def rrdb(**shape: Any) -> RRDBNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RRDBNet(RRDBNetConfig(**{"width": 8, "blocks": 2, "growth": 4, **shape})).eval()


def old_names(tensors: Tensors, plus: bool = False) -> Tensors:
    """As ESRGAN's first files have them, from the list of its layers (xinntao/ESRGAN, transer_RRDB_models.py)."""
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("body."))
    ups = sum(name.startswith("conv_up") for name in tensors) // 2
    ends = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    ends |= {f"conv_up{number}": f"model.{3 * number}" for number in range(1, ups + 1)}
    ends |= {"conv_hr": f"model.{3 * ups + 2}", "conv_last": f"model.{3 * ups + 4}"}
    found = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer in ends:
            found[f"{ends[layer]}.{kind}"] = tensor
        else:
            _, block, dense, conv = layer.split(".")
            number = "" if conv == "conv1x1" else ".0"
            found[f"model.1.sub.{block}.{dense.upper()}.{conv}{number}.{kind}"] = tensor
    return found


def bsrgan_names(tensors: Tensors) -> Tensors:
    found = {}
    for name, tensor in tensors.items():
        for ours, theirs in (("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv")):
            name = name.replace(ours, theirs)
        found[name.replace("body.", "RRDB_trunk.").replace("rdb", "RDB") if name.startswith("body.") else name] = tensor
    return found


FORMS: dict[str, Callable[[Tensors], Any]] = {
    "plain": lambda tensors: tensors,
    "old": old_names,
    "BSRGAN": bsrgan_names,
    "params_ema": lambda tensors: {"params": {name: one + 1 for name, one in tensors.items()}, "params_ema": tensors},
    "params": lambda tensors: {"params": tensors},
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 7},
    "module": lambda tensors: {f"module.{name}": one for name, one in tensors.items()},
    "params, module, old": lambda tensors: {"params": {f"module.{n}": one for n, one in old_names(tensors).items()}},
}
SHAPES: dict[str, dict[str, Any]] = {
    "x4": {},
    "x2": {"unshuffle": 2},
    "x1": {"unshuffle": 4},
    "x8": {"doublings": 3},
    "x2, old": {"doublings": 1},
    "x1, old": {"doublings": 0},
    "plus": {"plus": True},
    "grey": {"picture_channels": 1},
}


def assert_same(found: Any, network: torch.nn.Module) -> None:
    assert isinstance(found, NetworkUpscaler)
    ours, theirs = network.state_dict(), found.network.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file(form: str, tmp_path: Path) -> None:
    network = rrdb()
    torch.save(FORMS[form](network.state_dict()), tmp_path / "x.pth")
    assert_same(load_upscaler(tmp_path / "x.pth"), network)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", ["plain", "old"])
def test_every_shape(shape: str, names: str, tmp_path: Path) -> None:
    network = rrdb(**SHAPES[shape])
    save_file(FORMS[names](network.state_dict()), tmp_path / "some.safetensors")
    found = load_upscaler(tmp_path / "some.safetensors")
    assert_same(found, network)
    assert (found.label, found.scale) == ("some", network.scale)
    assert found.network.config == network.config  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_compact_network(scale: int, tmp_path: Path) -> None:
    network = Compact(CompactConfig(width=8, layers=3, scale=scale)).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "realesr-general-x4v3.pth")
    assert_same(load_upscaler(tmp_path / "realesr-general-x4v3.pth"), network)


@pytest.mark.parametrize("names", ["plain", "old", "BSRGAN", "plus"])
def test_spandrel_gives_the_same_picture_of_the_same_file(spandrel: Any, names: str, tmp_path: Path) -> None:
    network = rrdb(growth=32, plus=names == "plus")
    for weight in network.parameters():
        weight.data.mul_(2)
    tensors = old_names(network.state_dict()) if names == "plus" else FORMS[names](network.state_dict())
    save_file(tensors, tmp_path / "x.safetensors")
    theirs = spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "x.safetensors")
    pixels = torch.rand(1, 3, 20, 30)
    ours: Any = load_upscaler(tmp_path / "x.safetensors")
    with torch.no_grad():
        expected = theirs(pixels)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(enlarged(ours.network, pixels[0].permute(1, 2, 0).numpy()), expected, atol=1e-5)


def test_what_is_trained_here_opens_there(spandrel: Any, tmp_path: Path) -> None:
    network = rrdb(growth=32)
    save_upscaler(network, tmp_path / "x.safetensors", "emoji x4")
    assert spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "x.safetensors").scale == 4
    found = diafano.load_upscaler(tmp_path / "x.safetensors", dtype="float32")
    assert (found.label, found.scale) == ("emoji x4", 4)
    assert found.upscale(Image.new("RGB", (5, 6))).size == (20, 24)


OTHERS = {
    "an upscaler of the kind SwinIR": [
        "conv_first.weight",
        "layers.0.residual_group.blocks.0.attn.relative_position_bias_table",
    ],
    "an upscaler of the kind Swin2SR": ["conv_first.weight", "layers.0.residual_group.blocks.0.attn.logit_scale"],
    "an upscaler of the kind HAT": ["conv_first.weight", "layers.0.residual_group.overlap_attn.qkv.weight"],
    "an upscaler of the kind DAT": ["conv_first.weight", "layers.0.blocks.0.ffn.sg.norm.weight"],
    "an upscaler of the kind OmniSR": ["residual_layer.0.residual_layer.0.layer.0.fn.0.weight", "input.weight"],
    "an upscaler of the kind SPAN": ["block_1.c1_r.sk.weight"],
    "is a LoRA, and no upscaler": ["lora_unet_down_blocks_0.lora_up.weight"],
    "holds no upscaler: it has cat, dog": ["cat", "dog"],
}


@pytest.mark.parametrize("said", OTHERS)
def test_other_files_are_named(said: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(2, 2, 3, 3) for name in OTHERS[said]}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said) as error:
        load_upscaler(tmp_path / "x.safetensors")
    assert "use one of ESRGAN's RRDBNet and Real-ESRGAN's SRVGGNetCompact" in str(error.value)


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: one for key, one in tensors.items() if key != name}


BROKEN: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda t: without(t, "body.1.rdb2.conv3.bias"), r"no whole upscaler, see its body.1.rdb2.conv3.bias"),
    "no end": (lambda t: without(t, "conv_last.weight"), "no whole upscaler"),
    "misshapen": (lambda t: {**t, "conv_hr.bias": torch.zeros(3)}, r"conv_hr.bias \(3,\) instead of \(8,\)"),
    "more": (lambda t: {**t, "body.0.rdb1.norm.weight": torch.zeros(3)}, "RRDBNet has no place: it is a variant"),
    "a billion blocks": (lambda t: {**t, "body.999999999.rdb1.conv1.weight": torch.zeros(1)}, "no whole upscaler"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_one_sentence(fault: str, tmp_path: Path) -> None:
    change, said = BROKEN[fault]
    save_file(change(rrdb().state_dict()), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said):
        load_upscaler(tmp_path / "x.safetensors")


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    torch.save({"params": rrdb().state_dict(), "more": Runs()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="a pickle that would run"):
        load_upscaler(tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps({"params": 1}))
    with pytest.raises(UserError, match=r"y\.pth"):
        load_upscaler(tmp_path / "y.pth")


def test_filters_by_their_names_and_what_is_not_there() -> None:
    assert diafano.load_upscaler("lanczos").label == "Lanczos"
    for name in ("4x-Absent.pth", "Latent"):
        with pytest.raises(UserError, match=r"there is no upscaler .*give a file of ESRGAN.*Lanczos, Nearest"):
            diafano.load_upscaler(name)
