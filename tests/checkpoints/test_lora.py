"""LoRA files of every spelling: what they do to the weights, and that nothing is left when they are gone."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diafano.checkpoints.lora import Loras
from diafano.errors import UserError
from diafano.stable_diffusion import StableDiffusion
from helpers import told

RANK = 3
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def weight_of(network: torch.nn.Module, name: str) -> torch.Tensor:
    return network.get_parameter(f"{name}.weight")


Matrices = dict[str, tuple[Tensor, Tensor]]  # layer -> (down, up)


@pytest.fixture
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    return copy.deepcopy(tiny_model)


def matrices(model: StableDiffusion, part: str, names: list[str]) -> Matrices:
    generator = torch.Generator().manual_seed(5)
    made: Matrices = {}
    for name in names:
        weight = getattr(model, part).get_submodule(name).weight
        down = torch.randn(RANK, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=generator)
        made[name] = (down, up)
    return made


def product(pair: tuple[Tensor, Tensor], shape: torch.Size) -> Tensor:
    return (pair[1].flatten(1) @ pair[0].flatten(1)).reshape(shape)


def kohya(name: str) -> tuple[str, str]:
    flat = "lora_unet_" + name.replace(".", "_")
    return f"{flat}.lora_down.weight", f"{flat}.lora_up.weight"


def peft(name: str) -> tuple[str, str]:
    return f"unet.{name}.lora_A.weight", f"unet.{name}.lora_B.weight"


def older(name: str) -> tuple[str, str]:
    block, _, leaf = name.removesuffix(".0").rpartition(".")
    return f"unet.{block}.processor.{leaf}_lora.down.weight", f"unet.{block}.processor.{leaf}_lora.up.weight"


@pytest.mark.parametrize("spelling", [kohya, peft, older])
def test_every_spelling_changes_the_same_weights(
    model: StableDiffusion, tmp_path: Path, spelling: Callable[[str], tuple[str, str]]
) -> None:
    names = [f"{ATTENTION}.{leaf}" for leaf in ("to_q", "to_k", "to_v", "to_out.0")]
    made = matrices(model, "unet", names)
    save_file(
        {key: tensor for name in names for key, tensor in zip(spelling(name), made[name], strict=True)},
        tmp_path / "style.safetensors",
    )
    before = {name: weight_of(model.unet, name).detach().clone() for name in names}
    assert Loras(model).add(tmp_path / "style.safetensors", 0.5) == "style"
    for name in names:
        expected = before[name] + 0.5 * product(made[name], before[name].shape)
        assert torch.allclose(weight_of(model.unet, name), expected, atol=1e-6)


def test_alpha_convolutions_and_locons_core(model: StableDiffusion, tmp_path: Path) -> None:
    name = "down_blocks.0.resnets.0.conv1"
    weight = weight_of(model.unet, name)
    before = weight.detach().clone()
    down, mid, up = torch.randn(RANK, 8, 1, 1), torch.randn(RANK, RANK, 3, 3), torch.randn(8, RANK, 1, 1)
    prefix = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(6.0)}
    save_file({f"{prefix}.{ending}": tensor for ending, tensor in tensors.items()}, tmp_path / "c.safetensors")
    Loras(model).add(tmp_path / "c.safetensors")
    # One after the other, the three convolutions are the merged one.
    x = torch.randn(1, 8, 5, 5)
    in_turn = torch.conv2d(torch.conv2d(torch.conv2d(x, down), mid, padding=1), up)
    merged = torch.conv2d(x, weight.detach() - before, padding=1)
    assert torch.allclose(merged, 6.0 / RANK * in_turn, atol=1e-4)


def test_a_merged_lora_equals_one_on_the_fly(model: StableDiffusion, tmp_path: Path) -> None:
    name = f"{ATTENTION}.to_q"
    ((_, (down, up)),) = (made := matrices(model, "unet", [name])).items()
    save_file(dict(zip(kohya(name), made[name], strict=True)), tmp_path / "l.safetensors")
    generator = torch.Generator().manual_seed(0)
    given = (torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 700]), torch.randn(2, 77, 16))
    hook = model.unet.get_submodule(name).register_forward_hook(lambda _, x, y: y + 0.7 * (x[0] @ down.T) @ up.T)
    with torch.no_grad():
        fly = model.unet(*given)
        hook.remove()
        Loras(model).add(tmp_path / "l.safetensors", 0.7)
        assert torch.allclose(model.unet(*given), fly, atol=1e-5)


def test_several_in_any_order_leave_the_very_weights(model: StableDiffusion, tmp_path: Path) -> None:
    names = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_v"]
    for index, chosen in enumerate((names[:1], names)):
        made = matrices(model, "unet", chosen)
        pairs = {key: tensor for name in chosen for key, tensor in zip(kohya(name), made[name], strict=True)}
        save_file(pairs, tmp_path / f"{index}.safetensors")
    model.unet.to(torch.float16)
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    loras = Loras(model)
    for _ in range(20):
        loras.add(tmp_path / "0.safetensors", 0.3)
        loras.add(tmp_path / "1.safetensors", -1.7)
        loras.set_strength("0", 1.3)
        loras.remove("0")
        loras.add(tmp_path / "0.safetensors")
        loras.clear()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.unet.state_dict().items())


def test_strength_zero_changes_nothing(model: StableDiffusion, tmp_path: Path) -> None:
    name = f"{ATTENTION}.to_q"
    save_file(dict(zip(kohya(name), matrices(model, "unet", [name])[name], strict=True)), tmp_path / "l.safetensors")
    before = weight_of(model.unet, name).detach().clone()
    Loras(model).add(tmp_path / "l.safetensors", 0.0)
    assert torch.equal(weight_of(model.unet, name), before)


@pytest.mark.parametrize(
    "spelled",
    [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{}.weight",
    ],
)
def test_the_text_encoder_takes_its_share(model: StableDiffusion, tmp_path: Path, spelled: str) -> None:
    name = "encoder.layers.0.self_attn.q_proj"
    pair = matrices(model, "text_encoder", [name])[name]
    before = weight_of(model.text_encoder, name).detach().clone()
    save_file(
        {spelled.format(role): one for role, one in zip(("down", "up"), pair, strict=True)}, tmp_path / "t.safetensors"
    )
    Loras(model).add(tmp_path / "t.safetensors")
    after = weight_of(model.text_encoder, name)
    assert torch.allclose(after, before + product(pair, before.shape), atol=1e-6)


def test_complaint_lora_keys_dropped_with_only_a_log_line(model: StableDiffusion, tmp_path: Path) -> None:
    name = f"{ATTENTION}.to_q"
    tensors = dict(zip(kohya(name), matrices(model, "unet", [name])[name], strict=True))
    tensors["lora_unet_output_blocks_77_1_proj.lora_up.weight"] = torch.ones(2, 2)
    save_file(tensors, tmp_path / "odd.safetensors")
    before = weight_of(model.unet, name).detach().clone()
    with pytest.raises(UserError, match=r"lora_unet_output_blocks_77_1_proj.*--allow-partial"):
        Loras(model).add(tmp_path / "odd.safetensors")
    assert torch.equal(weight_of(model.unet, name), before), "nothing was applied"
    with told("output_blocks_77"):
        Loras(model).add(tmp_path / "odd.safetensors", allow_partial=True)


def test_what_does_not_fit_is_one_sentence(model: StableDiffusion, tmp_path: Path) -> None:
    down, up = kohya(f"{ATTENTION}.to_q")
    save_file({down: torch.ones(2, 1024), up: torch.ones(320, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="another size"):
        Loras(model).add(tmp_path / "other.safetensors")
    save_file({down: torch.ones(2, 8)}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="incomplete"):
        Loras(model).add(tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="no LoRA 'x'"):
        Loras(model).set_strength("x", 1.0)


def test_diffusers_applies_the_same(model: StableDiffusion, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    from diafano.checkpoints.parts import write_part
    from diafano.families.folder_parts import UNET

    names = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", "mid_block.attentions.0.transformer_blocks.0.ff.net.2"]
    made = matrices(model, "unet", names)
    save_file(
        {key: tensor for name in names for key, tensor in zip(peft(name), made[name], strict=True)},
        tmp_path / "l.safetensors",
    )
    write_part(model.unet, tmp_path / "unet", UNET)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        oracle = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
        oracle.load_lora_adapter(
            {key: t for name in names for key, t in zip(peft(name), made[name], strict=True)}, prefix="unet"
        )
        given = (torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 77, 16))
        expected = oracle(*given).sample
        plain = model.unet(*given)
        Loras(model).add(tmp_path / "l.safetensors")
        ours = model.unet(*given)
    assert (ours - plain).abs().max() > 0.01
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
