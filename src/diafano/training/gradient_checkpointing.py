"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): activations are computed twice instead of being kept."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from diafano.networks.layers import PictureAttention, ResidualBlock, SpatialTransformer
from diafano.networks.replaced import replace_forward
from diafano.text_encoder.clip import CLIPLayer

BLOCKS = (ResidualBlock, SpatialTransformer, PictureAttention, CLIPLayer)
"""None of them lies inside another, and between them little is kept: the blocks' inputs."""


def recompute_blocks(network: nn.Module) -> None:
    """From now on each block of the network keeps only its input for the way back, and runs again there.

    The gradients stay the same to the last bit, as nothing in the blocks is left to chance; a pass takes a third
    longer, which is the forward half of it once more. Without gradients nothing changes.
    """
    for module in network.modules():
        if isinstance(module, BLOCKS):
            replace_forward(module, partial(_forgetful, module.forward))


def _forgetful(forward: Callable[..., Any], *given: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given)
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False)
