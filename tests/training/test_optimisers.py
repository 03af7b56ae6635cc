"""The optimisers: who takes which weight, and what Muon's update is."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from diafano.training.optimisers import OptimiserName, Optimisers

POOL = ThreadPoolExecutor(2)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 20)
        self.kernel = nn.Conv2d(16, 24, 3)
        self.linear = nn.Linear(24, 40)
        self.out = nn.Linear(40, 4)


def optimisers(network: nn.Module, kind: OptimiserName = "muon", parts: int = 1) -> Optimisers:
    return Optimisers(network, kind, learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.0, parts=parts)


def test_muon_takes_inner_matrices_and_adamw_the_rest() -> None:
    network = Small()
    views = {id(matrix) for matrix, _ in optimisers(network).views}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in views]
    assert names == ["kernel.weight", "linear.weight"]
    assert not optimisers(network, "adamw").muons


def test_muons_update_is_nearly_orthogonal_and_of_adamws_size() -> None:
    network = Small()
    before = network.kernel.weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimisers(network).step(0.01, POOL)
    update = (network.kernel.weight.detach() - before).flatten(1) / (0.01 * 0.2 * (16 * 9) ** 0.5)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5 and values.max() < 1.3, "five steps of Newton and Schulz come so near"
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_sharing_the_matrices_out_changes_nothing(parts: int) -> None:
    one, shared = Small(), Small()
    alone, together = optimisers(one), optimisers(shared, parts=parts)
    for _ in range(3):
        for mine, theirs in zip(one.parameters(), shared.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        alone.step(0.01, POOL)
        together.step(0.01, POOL)
    for mine, theirs in zip(one.parameters(), shared.parameters(), strict=True):
        assert torch.equal(mine, theirs)
