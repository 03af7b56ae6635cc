"""ControlNet: residuals for the UNet, from files of every form, at part of the steps."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

import diafano
from diafano.checkpoints.controlnet import load_controlnet, names_of
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.families import configs
from diafano.networks.controlnet import ControlNet
from diafano.networks.unet import UNet, UNetConfig
from diafano.pictures.files import read_parameters
from diafano.sampling.clock import Clock
from diafano.sampling.control import Control, Controlled
from diafano.stable_diffusion import StableDiffusion
from helpers import told

HINTS = (8, 12, 16, 16)


@pytest.fixture(scope="module")
def network(tiny_model: StableDiffusion) -> ControlNet:
    """Random, zero convolutions included."""
    torch.manual_seed(4)
    made = ControlNet.copied_from(tiny_model.unet, HINTS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        made.controlnet_cond_embedding.conv_in.weight.mul_(8.0)  # so that the picture counts
    return made.eval()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    drawn = Image.new("RGB", (64, 64))
    ImageDraw.Draw(drawn).ellipse((10, 20, 50, 60), fill="white")
    return drawn


def controlnet_json(config: UNetConfig) -> dict[str, Any]:
    settings = configs.unet_json(config, 8)
    for key in ("up_block_types", "out_channels", "sample_size", "center_input_sample", "dual_cross_attention"):
        del settings[key]
    settings.pop("dropout")
    return {**settings, "_class_name": "ControlNetModel", "conditioning_embedding_out_channels": list(HINTS)}


def write_folder(network: ControlNet, path: Path) -> Path:
    path.mkdir(parents=True)
    save_file(network.state_dict(), path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps(controlnet_json(network.config)))
    return path


def original(network: ControlNet, prefix: str) -> dict[str, torch.Tensor]:
    weights = network.state_dict()
    return {prefix + name: weights[ours] for ours, name in names_of(weights, network.config).items()}


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(float) - np.asarray(other)).max())


# ---- the network


def test_the_original_has_its_own_names() -> None:
    with torch.device("meta"):
        network = ControlNet(UNetConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 361_279_120  # v1.1's
    names = set(names_of(network.state_dict(), network.config).values())
    assert {
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "input_hint_block.0.bias",
        "input_hint_block.14.weight",
        "zero_convs.11.0.weight",
        "middle_block.1.norm.weight",
        "middle_block_out.0.bias",
    } <= names
    assert len(names) == len(network.state_dict())


def test_before_training_nothing_changes(tiny_model: StableDiffusion, picture: Image.Image) -> None:
    fresh = ControlNet.copied_from(tiny_model.unet, HINTS)
    assert torch.equal(fresh.conv_in.weight, tiny_model.unet.conv_in.weight)
    controlled = tiny_model.generate("a fox", seed=1, controls=[Control(fresh, picture)])[0]
    assert difference(controlled, tiny_model.generate("a fox", seed=1)[0]) == 0


def test_a_controls_picture_may_be_a_path(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    network, picture = ControlNet.copied_from(tiny_model.unet, (8, 8, 8)), Image.new("RGB", (64, 64), "white")
    picture.save(tmp_path / "p.png")
    assert Control(network, tmp_path / "p.png").picture_hash == Control(network, picture).picture_hash  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the control's picture is a builtins\.int"):
        Control(network, 3)  # type: ignore[arg-type]


def test_residuals_are_added(tiny_model: StableDiffusion, network: ControlNet, picture: Image.Image) -> None:
    given = (torch.randn(2, 4, 8, 8), torch.tensor([10.0, 700.0]), torch.randn(2, 77, 16))
    with torch.no_grad():
        plain = tiny_model.unet(*given)
        made = network(*given, network.hint(torch.rand(1, 3, 64, 64)))
        assert [tuple(skip.shape[1:]) for skip in made.skips] == [(8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4)]
        assert tuple(made.middle.shape) == (2, 16, 4, 4)
        assert torch.equal(tiny_model.unet(*given, made.scaled(0.0)), plain)
        assert not torch.allclose(tiny_model.unet(*given, made), plain, atol=1e-2)
        # Two of half the strength are one.
        both = Controlled(tiny_model.unet, [Control(network, picture, 0.5)] * 2, lambda picture: picture, 1, Clock())
        one = Controlled(tiny_model.unet, [Control(network, picture)], lambda picture: picture, 1, Clock())
        assert torch.allclose(both(*cast(Any, given)), one(*cast(Any, given)), atol=1e-5)


def test_it_acts_in_its_share_of_the_steps(
    tiny_model: StableDiffusion, network: ControlNet, picture: Image.Image
) -> None:
    half = Control(network, picture, start=0.25, end=0.5)
    assert [half.acts(step, 8) for step in range(8)] == [False] * 2 + [True] * 2 + [False] * 4
    # Mikubill's extension for A1111 compares the step's beginning alone.
    assert [half.acts(step, 8, like_a1111=True) for step in range(8)] == [False] * 2 + [True] * 3 + [False] * 3
    assert all(Control(network, picture).acts(step, 7) for step in range(7))
    plain = tiny_model.generate("a fox", seed=1)[0]
    drawn = [
        tiny_model.generate("a fox", seed=1, controls=[Control(network, picture, strength, start, end)])[0]
        for strength, start, end in ((0, 0, 1), (1, 0.5, 0.5), (1, 0, 0.5), (1, 0.5, 1), (1, 0, 1))
    ]
    assert difference(drawn[0], plain) == difference(drawn[1], plain) == 0
    assert len({picture.tobytes() for picture in drawn[1:]}) == 4


def test_it_follows_the_picture_over_a_picture_in_any_size(
    tiny_model: StableDiffusion, network: ControlNet, picture: Image.Image
) -> None:
    other = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    over = {"image": picture, "strength": 0.5}
    for more in ({}, {"size": "96x64"}, over, {**over, "mask": picture, "only_masked": True}, {"count": 2}):
        one, two = (
            tiny_model.generate("a fox", seed=1, controls=[Control(network, each.convert("L"))], **more)[-1]
            for each in (picture, other)
        )
        assert difference(one, two) > 2


def test_it_follows_the_picture_in_both_passes(
    tiny_model: StableDiffusion, network: ControlNet, picture: Image.Image
) -> None:
    settings: dict[str, Any] = {"seed": 1, "steps": 2, "hires": 1.5, "hires_strength": 1.0}
    control = [Control(network, picture)]
    drawn = tiny_model.generate("a fox", controls=control, **settings)[0]
    alone = tiny_model.generate("a fox", controls=control, seed=1, steps=2, size=drawn.size)[0]
    assert difference(drawn, alone) <= 1
    assert difference(drawn, tiny_model.generate("a fox", **settings)[0]) > 1


def test_in_half_precision_it_is_the_same_picture(
    tiny_model: StableDiffusion, network: ControlNet, picture: Image.Image
) -> None:
    """Where the CPU's engine computes, it computes for the ControlNet too."""
    model, half = copy.deepcopy(tiny_model), copy.deepcopy(network).to(torch.bfloat16)
    for part in (model.unet, model.text_encoder, model.autoencoder):
        part.to(torch.bfloat16)
    one = model.generate("a fox", seed=1, controls=[Control(half, picture)])[0]
    full = tiny_model.generate("a fox", seed=1, controls=[Control(network, picture)])[0]
    plain = tiny_model.generate("a fox", seed=1)[0]
    error, effect = (np.abs(np.asarray(full, float) - np.asarray(other)).mean() for other in (one, plain))
    assert error < 0.2 * effect


def test_bad_values_are_one_sentence(network: ControlNet, picture: Image.Image) -> None:
    for settings in ({"strength": -1.0}, {"strength": float("nan")}, {"start": 0.6, "end": 0.5}, {"end": 1.5}):
        with pytest.raises(UserError, match="not possible"):
            Control(network, picture, **settings)


# ---- files


@pytest.mark.parametrize("form", ["folder", "control_model.", "", "diffusers", "whole checkpoint", "pickle"])
def test_every_form_is_the_same_network(
    tiny_model: StableDiffusion, network: ControlNet, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "edges.safetensors"
    if form == "folder":
        path = write_folder(network, tmp_path / "edges")
    elif form == "diffusers":
        save_file(network.state_dict(), path)
    elif form == "whole checkpoint":
        save_file({**original(network, "control_model."), "model.diffusion_model.x": torch.ones(1)}, path)
    elif form == "pickle":
        path = tmp_path / "edges.pth"
        torch.save({"state_dict": original(network, "control_model.")}, path)
    else:
        save_file(original(network, form), path)
    loaded = load_controlnet(path, tiny_model)
    assert loaded.name == "edges" and len(loaded.hash) == 8
    for (name, tensor), (other, wanted) in zip(loaded.state_dict().items(), network.state_dict().items(), strict=True):
        assert name == other and torch.equal(tensor, wanted)


def test_what_does_not_fit_is_one_sentence(tiny_model: StableDiffusion, network: ControlNet, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"

    def said(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, path)
        with pytest.raises(UserError) as error:
            load_controlnet(path, tiny_model)
        assert "\n" not in str(error.value)
        return str(error.value)

    good = original(network, "control_model.")
    assert "no input_hint_block" in said({"x": torch.ones(1)})
    assert "lacks mid_block.resnets.0.norm1.weight" in said(
        {name: tensor for name, tensor in good.items() if "middle_block.0.in_layers.0.weight" not in name}
    )
    assert "another shape" in said(good | {"control_model.middle_block_out.0.bias": torch.ones(3)})
    assert "control_model.extra" in said(good | {"control_model.extra": torch.ones(1)})
    with pytest.raises(UserError, match="no ControlNet"):
        load_controlnet(tmp_path / "absent", tiny_model)
    # of another UNet: given directly, and from a folder
    wide = UNet(UNetConfig(widths=(8, 16), layers=1, attention=(True, False), heads=(2, 2), text_width=24, groups=4))
    other = ControlNet.copied_from(wide, HINTS)
    with pytest.raises(UserError, match="text of width 16"):
        tiny_model.generate("a fox", controls=[Control(other, Image.new("RGB", (64, 64)))])
    with pytest.raises(UserError, match="text of width 16"):
        load_controlnet(write_folder(other, tmp_path / "wide"), tiny_model)
    shallow = ControlNet.copied_from(tiny_model.unet, HINTS[:3])
    with pytest.raises(UserError, match="4th of the picture"):
        load_controlnet(write_folder_with_hints(shallow, tmp_path / "shallow", HINTS[:3]), tiny_model)
    folder = write_folder(network, tmp_path / "odd")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "global_pool_conditions": True}))
    with pytest.raises(UserError, match="global_pool_conditions"):
        load_controlnet(folder, tiny_model)


def write_folder_with_hints(network: ControlNet, path: Path, hints: tuple[int, ...]) -> Path:
    write_folder(network, path)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**settings, "conditioning_embedding_out_channels": list(hints)}))
    return path


def test_complaint_keys_that_match_nothing_are_dropped_in_silence(
    tiny_model: StableDiffusion, network: ControlNet, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({**network.state_dict(), "down_blocks.9.extra": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"down_blocks\.9\.extra.*--allow-partial"):
        load_controlnet(path, tiny_model)
    with told(r"down_blocks\.9\.extra"):
        load_controlnet(path, tiny_model, allow_partial=True)


def test_public_names() -> None:
    assert diafano.Control is Control and diafano.load_controlnet is load_controlnet


# ---- the command


@pytest.fixture
def run(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    command = ["generate", "--model", str(tiny_folder), "--device", "cpu"]
    return lambda *arguments: cli.run([*command, *(str(argument) for argument in arguments)])


def test_the_command_records_and_draws_again(
    run: Callable[..., int],
    tiny_model: StableDiffusion,
    network: ControlNet,
    picture: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, hint, first, again = (
        write_folder(network, tmp_path / "edges"),
        *(tmp_path / name for name in ("hint.png", "first.png", "again.png")),
    )
    picture.save(hint)
    control = ["--control", folder, "--control-image", hint]
    acts = ["--control-strength", 0.8, "--control-end", 0.5]
    assert run("a fox", "--seed", 1, "--output", first, *control, *acts) == 0
    text = read_parameters(first) or ""
    model = f"edges [{load_controlnet(folder, tiny_model).hash}]"
    unit = (
        f"Module: none, Model: {model}, Weight: 0.8, Resize Mode: Crop and Resize, Guidance Start: 0, Guidance End: 0.5"
    )
    assert f'ControlNet 0: "{unit}"' in text
    drawn = tiny_model.generate("a fox", seed=1, controls=[Control(network, picture, 0.8, 0.0, 0.5)])[0]
    assert difference(Image.open(first), drawn) == 0
    capsys.readouterr()
    assert run("--from", first, "--output", again, *control) == 0  # strength and share are the picture's
    assert capsys.readouterr().err == ""
    assert difference(Image.open(first), Image.open(again)) == 0 and read_parameters(again) == text
    assert run("--from", first, "--output", again, *control, "--control-strength", 0.1) == 0
    assert "Weight: 0.1" in (read_parameters(again) or "")
    capsys.readouterr()
    assert run("--from", first, "--output", again) == 0
    assert f"ControlNet 0: {model} (give it with --control" in capsys.readouterr().err
    picture.rotate(90).save(hint)
    assert run("--from", first, "--output", again, *control) == 0
    assert "hint.png is another one" in capsys.readouterr().err


def test_two_controls_and_what_is_typed_wrongly(
    run: Callable[..., int],
    network: ControlNet,
    picture: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, hint, out = write_folder(network, tmp_path / "edges"), tmp_path / "hint.png", tmp_path / "out.png"
    picture.save(hint)
    two = ["--control", folder, "--control-image", hint] * 2
    assert run("a fox", "--output", out, *two, "--control-strength", 0.5, "--control-strength", 0.25) == 0
    text = read_parameters(out) or ""
    assert "ControlNet 0" in text and "ControlNet 1" in text and "Weight: 0.25" in text
    out.unlink()
    for arguments in (
        ["--control", folder],
        ["--control-image", hint],
        [*two, "--control", folder, "--control-image", hint, "--control-end", 0.5, "--control-end", 0.6],
        [*two, "--control-strength", -1],
        ["--control", tmp_path, "--control-image", hint],
    ):
        capsys.readouterr()
        assert run("a fox", "--output", out, *arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not out.exists()
