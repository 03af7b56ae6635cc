"""Bands and windows give the whole picture's numbers; where windows cannot, no seam shows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diafano.engine import enlarging
from diafano.engine.enlarging import banded, enlarged
from diafano.errors import UserError
from diafano.networks.compact import Compact, CompactConfig
from diafano.networks.enlarging import EnlargingNetwork
from diafano.networks.rrdb import RRDBNet, RRDBNetConfig
from helpers import told

MakeNetwork = Callable[[], EnlargingNetwork]


def lively(network: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * (1.2 / max(1, weight[0].numel()) ** 0.5)
    if isinstance(network, RRDBNet):
        network.state_dict()["conv_last.bias"].fill_(0.5)  # so that little of it is cut off at 0 and 1
    return network.eval()


def rrdb(**shape: Any) -> RRDBNet:
    return lively(RRDBNet(RRDBNetConfig(**{"width": 8, "blocks": 2, "growth": 4, **shape})))


NETWORKS: dict[str, MakeNetwork] = {
    "x4": rrdb,
    "x2": lambda: rrdb(blocks=1, unshuffle=2),
    "x1": lambda: rrdb(blocks=1, unshuffle=4),
    "x1, no doubling": lambda: rrdb(doublings=0),
    "x8": lambda: rrdb(blocks=1, doublings=3),
    "compact": lambda: lively(Compact(CompactConfig(width=8, layers=4))),
}


def picture_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def plainly(network: EnlargingNetwork, picture: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        made: Tensor = network(torch.from_numpy(picture).permute(2, 0, 1)[None])
    return made[0].permute(1, 2, 0).clamp(0, 1).numpy()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [1, 7])
def test_bands_and_windows_are_the_whole_picture(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, picture = NETWORKS[name](), picture_of(120, 140)
    whole = plainly(network, picture)
    assert whole.std() > 0.05
    np.testing.assert_allclose(enlarged(network, picture), whole, atol=2e-5)
    np.testing.assert_allclose(enlarged(network, picture, tile=64), whole, atol=2e-5)
    monkeypatch.setattr(enlarging, "banded", partial(banded, values=64 * 140 * (rows + 30)))
    np.testing.assert_allclose(enlarged(network, picture), whole, atol=2e-5)


def test_bands_are_bands() -> None:
    seen = []

    def layers(x: Tensor) -> Tensor:
        seen.append(x.shape[-2])
        return x.repeat_interleave(2, -2).repeat_interleave(2, -1)

    x = torch.rand(1, 2, 20, 3)
    torch.testing.assert_close(banded(layers, x, 1, 2, values=64 * 4 * 3 * 6), layers(x))
    assert seen == [5, 6, 6, 6, 5, 20]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (65, 129), (200, 64)])
@pytest.mark.parametrize("name", ["x4", "x2", "x1"])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    network = NETWORKS[name]()
    made = enlarged(network, picture_of(*size), tile=64)
    assert made.shape == (size[0] * network.scale, size[1] * network.scale, 3)
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1


def test_where_a_network_sees_further_than_windows_do_no_seam_shows() -> None:
    """Steps across the windows' borders are as large as those everywhere, though the two windows differ."""
    network, picture = rrdb(blocks=8), picture_of(64, 200)
    assert network.radius > enlarging.OVERLAP + 64
    whole, tiled = plainly(network, picture), enlarged(network, picture, tile=64)
    assert np.abs(whole - tiled).max() < 0.05
    steps = np.abs(np.diff(tiled - whole, axis=1)).mean((0, 2))
    assert steps[64 * 4 - 1 : 64 * 4 + 1].max() <= 3 * max(steps.mean(), 1e-6)


def test_windows_are_told_of_and_their_edge_is_checked() -> None:
    done: list[tuple[int, int]] = []
    enlarged(rrdb(blocks=1), picture_of(70, 130), tile=64, on_tile=lambda *tile: done.append(tile))
    assert done == [(number, 6) for number in range(1, 7)]
    with pytest.raises(UserError, match="tiles of 63 pixels are not possible: give a whole number from 64 on"):
        enlarged(rrdb(blocks=1), picture_of(8, 8), tile=63)


def test_smaller_tiles_where_memory_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    network, picture = rrdb(blocks=1), picture_of(100, 300)
    whole = plainly(network, picture)
    plain, least = enlarging._computed, 300

    def computed(network: EnlargingNetwork, part: np.ndarray) -> np.ndarray:
        if part.shape[1] >= least:
            raise MemoryError
        return plain(network, part)

    monkeypatch.setattr(enlarging, "_computed", computed)
    monkeypatch.setattr(enlarging, "WINDOWS", (128, 64))
    with told("memory was not enough for a picture of 300x100 to be made larger at once: it is done in tiles of 128"):
        np.testing.assert_allclose(enlarged(network, picture), whole, atol=2e-5)
    least = 1
    with told("tiles of 64"), pytest.raises(UserError, match="memory is not enough for a picture of 300x100"):
        enlarged(network, picture)


def test_half_precision_that_overflows_is_run_in_float32() -> None:
    network, picture = rrdb(blocks=1), picture_of(8, 8)
    network.state_dict()["conv_up2.weight"].mul_(3e3)
    network.conv_hr.weight.data.mul_(3e3)
    network.conv_last.weight.data.mul_(1e-3)
    whole = plainly(network, picture)
    with told("upscaler gave NaN or infinity in float16"):
        assert np.abs(enlarged(network.half(), picture) - whole).mean() < 0.02


def test_a_network_of_grey_pictures_makes_grey_ones() -> None:
    made = enlarged(rrdb(blocks=1, picture_channels=1), picture_of(8, 8))
    assert made.shape == (32, 32, 3) and (made[..., 0] == made[..., 2]).all()
