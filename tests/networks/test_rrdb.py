"""RRDBNet and SRVGGNetCompact: held against the papers' definitions in plain torch, and against spandrel's networks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diafano.networks.compact import Compact, CompactConfig
from diafano.networks.enlarging import EnlargingNetwork
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig


def lively(network: Any, seed: int = 0) -> Any:
    """Weights large enough that every path changes the result."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * (0.6 / max(1, weight[0].numel()) ** 0.5)
    return network.eval()


def rrdb(**shape: Any) -> RRDBNet:
    return lively(RRDBNet(RRDBNetConfig(**{"width": 8, "blocks": 2, "growth": 4, **shape})))


# ---- mathematics


def test_parameters_are_those_of_the_published_files() -> None:
    assert sum(weight.numel() for weight in RRDBNet(RRDBNetConfig()).parameters()) == 16_697_987
    x2 = RRDBNet(RRDBNetConfig(unshuffle=2))
    assert x2.conv_first.weight.shape == (64, 12, 3, 3) and x2.scale == 2
    assert RRDBNet(RRDBNetConfig(blocks=6)).state_dict().keys() >= {"conv_up2.weight", "body.5.rdb3.conv5.bias"}
    assert sum(weight.numel() for weight in Compact(CompactConfig()).parameters()) == 1_213_296


def test_a_network_whose_branches_are_silent_is_its_ends() -> None:
    """Nearest neighbours between convolutions that pass a channel on: each pixel becomes a square of its colour."""
    network = RRDBNet(RRDBNetConfig(width=3, blocks=1, growth=2))
    for weight in network.parameters():
        weight.data.zero_()
    for name in ("conv_first", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        for channel in range(3):
            network.state_dict()[f"{name}.weight"][channel, channel, 1, 1] = 1
    pixels = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(network(pixels), F.interpolate(pixels, scale_factor=4))


def test_pixels_are_unshuffled_into_channels_of_their_own() -> None:
    """Only the first pixel of each square counts where the first convolution looks at its channel alone."""
    network = rrdb(unshuffle=2, blocks=1)
    network.conv_first.weight.data[:, [c for c in range(12) if c % 4]] = 0
    pixels = torch.rand(1, 3, 8, 12)
    other = torch.rand(1, 3, 8, 12)
    other[..., ::2, ::2] = pixels[..., ::2, ::2]
    torch.testing.assert_close(network(other), network(pixels))
    other[..., 0, 0] += 1
    assert (network(other) - network(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "network",
    [rrdb(), rrdb(unshuffle=2), rrdb(unshuffle=4, blocks=1), rrdb(doublings=0), rrdb(doublings=3, blocks=1)]
    + [lively(Compact(CompactConfig(width=8, layers=3, scale=scale))) for scale in (1, 2, 4)],
    ids=lambda network: f"{type(network).__name__}-{network.scale}-{network.multiple}",
)
def test_nothing_is_seen_beyond_the_radius(network: EnlargingNetwork) -> None:
    """And what is at the radius is: the margin is neither too small nor much too large."""
    radius, scale = network.radius, network.scale
    edge = -(-(2 * radius + 9) // network.multiple) * network.multiple
    pixels = torch.rand(1, 3, edge, edge, requires_grad=True)
    middle = edge // 2
    made = network(pixels)[0, :, middle * scale, middle * scale].sum()
    (seen,) = torch.autograd.grad(made, pixels)
    rows = seen.abs().sum((0, 1, 3)).nonzero().flatten() - middle
    assert max(-rows.min(), rows.max()) <= radius
    assert max(-rows.min(), rows.max()) >= radius - 2 * network.multiple


# ---- the paper's definition


class PaperDense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1) for i in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for conv in self.convs[:4]:
            maps.append(nn.LeakyReLU(0.2)(conv(torch.cat(maps, 1))))
        result: Tensor = x + 0.2 * self.convs[4](torch.cat(maps, 1))
        return result


class PaperRRDB(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(PaperDense(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + 0.2 * self.blocks(x)
        return result


def convolution(of: int, to: int) -> nn.Conv2d:
    return nn.Conv2d(of, to, 3, padding=1)


@pytest.mark.parametrize("doublings", [1, 2])
def test_it_is_the_papers_network(doublings: int) -> None:
    ours = rrdb(doublings=doublings)
    first, trunk = convolution(3, 8), nn.Sequential(*(PaperRRDB(8, 4) for _ in range(2)), convolution(8, 8))
    ups = [nn.Sequential(nn.Upsample(scale_factor=2), convolution(8, 8), nn.LeakyReLU(0.2)) for _ in range(doublings)]
    end = nn.Sequential(*ups, convolution(8, 8), nn.LeakyReLU(0.2), convolution(8, 3))
    theirs = [*first.parameters(), *trunk.parameters(), *end.parameters()]
    for own, other in zip(ours.parameters(), theirs, strict=True):
        other.data = own.data
    pixels = torch.rand(2, 3, 9, 7)
    begun = first(pixels)
    torch.testing.assert_close(ours(pixels), end(begun + trunk(begun)))


# ---- spandrel


@pytest.mark.parametrize("shape", [{}, {"unshuffle": 2}, {"unshuffle": 4}, {"doublings": 3}, {"doublings": 1}])
def test_spandrel_computes_the_same(spandrel: Any, shape: dict[str, int]) -> None:
    ours = rrdb(growth=32, **shape)  # which it takes for granted
    theirs = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(ours.state_dict()))
    assert (theirs.architecture.id, theirs.scale) == ("ESRGAN", ours.scale)
    pixels = torch.rand(1, 3, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels).clamp(0, 1), theirs(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_spandrel_computes_the_same_of_the_compact_network(spandrel: Any, scale: int) -> None:
    ours = lively(Compact(CompactConfig(width=8, layers=5, scale=scale)))
    theirs = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(ours.state_dict()))
    assert (theirs.architecture.id, theirs.scale) == ("Compact", scale)
    pixels = torch.rand(1, 3, 10, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels).clamp(0, 1), theirs(pixels), atol=1e-5, rtol=1e-5)
