"""Gradient checkpointing: the same gradients from less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.training.gradient_checkpointing import recompute_blocks
from diafano.training.loop import Training
from diafano.training.recipe import LoopRecipe


def unet() -> nn.Module:
    torch.manual_seed(1)
    return UNet(UNetConfig(widths=(16, 32), layers=2, attention=(True, True), heads=(2, 2), text_width=16, groups=4))


def autoencoder() -> nn.Module:
    torch.manual_seed(1)
    return Autoencoder(AutoencoderConfig(widths=(8, 16), layers=1, groups=4))


def text_encoder() -> nn.Module:
    torch.manual_seed(1)
    tokens: Any = {"vocabulary": 600, "start_token": 598, "end_token": 599, "pad_token": 599}
    return CLIPTextEncoder(CLIPTextConfig(width=16, mlp_width=64, layers=3, heads=2, **tokens))


def predict(network: nn.Module) -> Tensor:
    chance = torch.Generator().manual_seed(2)
    if isinstance(network, UNet):
        latent, text = torch.randn(2, 4, 16, 16, generator=chance), torch.randn(2, 9, 16, generator=chance)
        return network(latent, torch.tensor([5.0, 700.0]), text)
    if isinstance(network, Autoencoder):
        return network.decode(network.encode(torch.randn(2, 3, 16, 16, generator=chance)).mean)
    return network(torch.randint(0, 598, (2, 77), generator=chance))


def gradients_and_kept(network: nn.Module, precision: torch.dtype) -> tuple[list[Tensor], int]:
    """The gradients of all weights, and how many values were kept for them beside the weights."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16, cache_enabled=False),
    ):
        loss = predict(network).float().square().mean()
    held = sum(kept.values())
    return list(torch.autograd.grad(loss, list(network.parameters()))), held


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("make", [unet, autoencoder, text_encoder])
def test_the_same_gradients_bit_for_bit_from_less_memory(make: object, precision: torch.dtype) -> None:
    assert callable(make)
    usual, forgetful = make(), make()
    recompute_blocks(forgetful)
    wanted, kept = gradients_and_kept(usual, precision)
    found, kept_less = gradients_and_kept(forgetful, precision)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert kept_less < 0.35 * kept


def test_without_gradients_nothing_changes() -> None:
    usual, forgetful = unet(), unet()
    recompute_blocks(forgetful)
    with torch.no_grad():
        assert torch.equal(predict(forgetful), predict(usual))
    assert forgetful.state_dict().keys() == usual.state_dict().keys()


def test_the_recipe_switches_it(tmp_path: Path) -> None:
    """Two passes at the same time as well, each in a thread of its own; the weights end the same."""

    class Stage:
        def __init__(self) -> None:
            self.trained = unet()

        def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            return predict(self.trained).square().mean() * (1 + number), {}

        def preview(self) -> object:
            from PIL import Image

            return Image.new("RGB", (4, 4)), {}

        def save(self, folder: Path) -> None:
            pass

    ends = []
    for switched in (False, True):
        stage = Stage()
        recipe = LoopRecipe(
            steps=2, accumulate=2, workers=2, precision="fp32", tensorboard=False, gradient_checkpointing=switched
        )
        Training(stage, recipe, tmp_path / str(switched), torch.device("cpu")).run()  # type: ignore[arg-type]
        ends.append((torch.cat([weight.flatten() for weight in stage.trained.parameters()]), stage.trained))
    (usual, plain), (forgetful, switched_on) = ends
    assert torch.equal(forgetful, usual)
    assert "forward" not in vars(plain.down_blocks[0].resnets[0])  # type: ignore[index,union-attr]
    assert "forward" in vars(switched_on.down_blocks[0].resnets[0])  # type: ignore[index,union-attr]
