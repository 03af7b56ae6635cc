"""Packed weights: the same answers, and nothing of it is left behind or seen where it does not belong."""

import pytest
import torch
from torch import Tensor, nn

import diafano
from diafano.engine import prepacked as module
from diafano.engine.prepacked import available, prepacked
from diafano.networks.tileable import tileable
from diafano.stable_diffusion import StableDiffusion

pytestmark = pytest.mark.skipif(not available(), reason="torch without oneDNN")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each time that a weight is packed."""
    found: list[str] = []
    for name in ("linear", "convolution"):
        operation = getattr(torch.ops.mkldnn, f"_reorder_{name}_weight")

        def packing(*given: object, name: str = name, operation: object = operation) -> Tensor:
            found.append(name)
            result: Tensor = operation(*given)  # type: ignore[operator]
            return result

        monkeypatch.setattr(torch.ops.mkldnn, f"_reorder_{name}_weight", packing)
    return found


def plain_and_packed(network: nn.Module, *given: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        plain = network(*given)
        with prepacked(network):
            return plain, network(*given)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 10, 3, padding=1), (2, 6, 8, 5)),
        (nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False), (1, 6, 9, 9)),
        (nn.Conv2d(8, 8, 1), (3, 8, 4, 4)),
        (nn.Conv2d(8, 8, 3, groups=4, dilation=2), (1, 8, 9, 9)),
        (nn.Linear(12, 7), (2, 5, 12)),
        (nn.Linear(12, 7, bias=False), (12,)),
        (nn.Linear(12, 7), (0, 12)),
    ],
    ids=str,
)
def test_layers(layer: nn.Module, shape: tuple[int, ...], calls: list[str]) -> None:
    plain, found = plain_and_packed(layer, torch.randn(shape))
    assert found.shape == plain.shape
    assert torch.allclose(found, plain, atol=1e-6)
    assert len(calls) == (0 not in shape)


def test_the_embedded_unet(calls: list[str]) -> None:
    unet = diafano.load(device="cpu").unet
    given = torch.randn(2, 4, 16, 16), torch.tensor([5.0, 700.0]), torch.randn(2, 77, 256)
    plain, found = plain_and_packed(unet, *given)
    assert float((found - plain).norm() / plain.norm()) < 1e-5
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in unet.modules())
    assert len(calls) == layers
    assert not any("forward" in vars(layer) for layer in unet.modules())


def test_pictures_are_drawn_with_packed_weights_once_a_run(tiny_model: StableDiffusion, calls: list[str]) -> None:
    tiny_model.generate("a", steps=2, seed=1)
    after_two = len(calls)
    assert after_two > 0
    calls.clear()
    tiny_model.generate("a", steps=6, seed=1)
    assert len(calls) == after_two


def test_other_inputs_and_other_weights_are_noticed() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1)
    with torch.inference_mode(), prepacked(layer):
        for size in (8, 12, 8):
            x = torch.randn(1, 4, size, size)
            assert torch.allclose(layer(x), nn.Conv2d.forward(layer, x), atol=1e-5)
            layer.weight.data = torch.randn(4, 4, 3, 3)  # as a LoRA puts it in
            assert torch.allclose(layer(x), nn.Conv2d.forward(layer, x), atol=1e-5)


def test_hooks_see_packed_layers() -> None:
    layer, seen = nn.Linear(4, 4), []
    layer.register_forward_hook(lambda *_: seen.append(True))
    with torch.inference_mode(), prepacked(nn.Sequential(layer)):
        layer(torch.randn(2, 4))
    assert seen == [True]


def test_what_is_unusual_computes_plainly(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 4, 6, 6)
    around = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    same = nn.Conv2d(4, 4, 3, padding="same")
    half = nn.Conv2d(4, 4, 3).bfloat16()
    layer = nn.Conv2d(4, 4, 3)
    with prepacked(around, same, half, layer):
        layer(x).sum().backward()
        with torch.inference_mode():
            layer(x[:0])
            around(x), same(x), half(x.bfloat16())
    assert layer.weight.grad is not None
    with torch.inference_mode(), tileable("both"), prepacked(layer):
        layer(x)
    monkeypatch.setattr(module, "LARGEST", 10)
    plain_and_packed(layer, x)
    assert calls == []


def test_a_compiled_network_is_left_alone(calls: list[str]) -> None:
    layer = nn.Linear(4, 4)
    layer._compiled_call_impl = layer._call_impl  # as `compile` does
    plain_and_packed(layer, torch.randn(2, 4))
    assert calls == []
