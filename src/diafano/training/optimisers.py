"""What changes the weights: AdamW for all, or Muon for the matrices inside the network and AdamW for the rest."""

from concurrent.futures import Executor
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimiserName = Literal["adamw", "muon"]
SMALLEST_MATRIX = 16
"""A matrix with a shorter side, as at the network's two ends, is AdamW's: made orthogonal, it says little."""


class Optimisers:
    """The optimisers of one network as one: `step` takes the gradients that its parameters hold.

    Muon (Jordan et al. 2024, with the learning rate's scale of Liu et al. 2025, arXiv 2502.16982, so that one rate
    serves both) makes each matrix's update orthogonal; it needs about half the updates that AdamW does. A
    convolution's kernel is a matrix of (out, in * height * width).
    """

    def __init__(
        self,
        network: nn.Module,
        kind: OptimiserName,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        parts: int = 1,
    ) -> None:
        """`parts`: into how many the matrices are shared out, to be worked on at the same time."""
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        matrices = _inner_matrices(network) if kind == "muon" else []
        taken = {id(matrix) for matrix in matrices}
        rest = [parameter for parameter in trained if id(parameter) not in taken]
        groups = [
            {"params": [parameter for parameter in rest if parameter.ndim > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in rest if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parameters = trained
        self.adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
        self.muons: list[torch.optim.Optimizer] = []
        # The optimiser sees a kernel as a matrix in the same memory, and is lent its gradient.
        self.views = [(matrix, nn.Parameter(matrix.detach().view(len(matrix), -1))) for matrix in matrices]
        by_size = sorted((view for _, view in self.views), key=Tensor.numel, reverse=True)
        for first in range(min(parts, len(by_size))):
            self.muons.append(
                torch.optim.Muon(
                    by_size[first::parts],
                    lr=learning_rate,
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, learning_rate: float, pool: Executor) -> None:
        """One update of all parameters; their gradients are forgotten."""
        for parameter, view in self.views:
            view.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for optimiser in (self.adamw, *self.muons):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
        list(pool.map(_step, self.muons))
        self.adamw.step()
        for parameter in (*self.parameters, *(view for _, view in self.views)):
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict(), "muons": [muon.state_dict() for muon in self.muons]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state["adamw"])
        for muon, stored in zip(self.muons, state["muons"], strict=True):
            muon.load_state_dict(stored)


def _inner_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of linear layers and convolutions, but not tables of embeddings and not the network's narrow ends."""
    return [
        module.weight
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and module.weight.requires_grad
        and min(module.weight.flatten(1).shape) >= SMALLEST_MATRIX
    ]


def _step(optimiser: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        optimiser.step()
