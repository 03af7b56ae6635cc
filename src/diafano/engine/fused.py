"""The blocks of `networks.layers` in fused operations, and `accelerated`, which puts them in the plain ones' place.

What is fused into one pass over memory: norm and SiLU; convolution, bias, embedded timestep and residual; linear
layer, bias and residual; GEGLU with its linear layer; attention. A block computes plainly as before when something is
unusual about it or its input: another number format or device, gradients, hooks, padding that is not of zeros.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diafano.engine import operations
from diafano.engine.build import available
from diafano.engine.devices import to_channels_last
from diafano.engine.exclusive import exclusive
from diafano.engine.memory import keep_freed_memory
from diafano.engine.prepacked import prepacked
from diafano.networks.conditioning import Conditioning, Told
from diafano.networks.controlnet import ControlNet
from diafano.networks.layers import (
    GEGLU,
    Attention,
    FeedForward,
    Join,
    PictureAttention,
    ResidualBlock,
    SpatialTransformer,
    TransformerBlock,
    Upsample,
    to_map,
    to_tokens,
)
from diafano.networks.replaced import Forward, is_replaced, replaced_forwards
from diafano.networks.tileable import wrapped_axes
from diafano.networks.unet import UNet


@contextmanager
def accelerated(*networks: nn.Module) -> Iterator[None]:
    """Inside, the networks' blocks compute by the engine, if this machine has it; the networks are what they were.

    Weights are read where they lie, in each call: they may change in between, and nothing is kept of them but the keys
    and values of the text that was read last. With or without the engine, weights get their layout first; small float32
    networks are `prepacked`. Other threads wait until they have the networks for themselves, see `exclusive`.
    """
    with exclusive(*networks):
        to_channels_last(*networks)
        with replaced_forwards(_fused(networks)), prepacked(*networks):
            yield


def _fused(networks: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, Forward]]:
    """What can be fused here, and how."""
    known = Known()
    there = any(_on_cpu(weight) for network in networks for weight in network.parameters()) and available()
    if there and not any(wrapped_axes()):  # its convolutions pad with zeros
        keep_freed_memory()  # as the commands do from the start
        for network in networks:
            for block in network.modules():
                make = FUSED.get(type(block))
                if make is not None and is_plain(block):
                    yield block, make(block, known)
            if isinstance(network, UNet | ControlNet):
                yield network, told_network(network, known)


def is_fused(block: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it computes inputs of that number format by the engine, inside `accelerated`."""
    return dtype == torch.bfloat16 and type(block) in FUSED and is_replaced(block)


def is_plain(block: nn.Module) -> bool:
    """Whether all layers in the block are as `networks.layers` makes them, and nobody watches or has changed them."""
    for layer in block.modules():
        if type(layer) not in KNOWN_LAYERS or (layer is not block and is_replaced(layer)):
            return False
        if layer is not block and (layer._forward_hooks or layer._forward_pre_hooks):
            return False
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            return False
        if isinstance(layer, nn.Linear) and layer.in_features % 2:  # the processor multiplies pairs
            return False
        if isinstance(layer, Attention) and layer.to_q.out_features // layer.heads % 2:
            return False
        if not all(_on_cpu(weight) for weight in layer.parameters(recurse=False)):
            return False
    return True


KNOWN_LAYERS = {
    *(nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.ModuleList, nn.Identity),
    *(ResidualBlock, SpatialTransformer, TransformerBlock, Attention, FeedForward, GEGLU, PictureAttention, Upsample),
    Join,
}


@dataclass
class Known:
    """What the blocks of networks know beyond their inputs."""

    keys: dict[nn.Module, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    """Cross-attention -> the text it read last, with its keys and values: they are the same in every step of a run."""
    copies: int = 1
    """So many equal parts the batch has at this place of a network's call (`Conditioning.copies`): with guidance two,
    until the first cross-attention has read a different text for each. One of them is computed."""


def repeated(x: Tensor, copies: int) -> Tensor:
    return x if copies == 1 else torch.cat([x] * copies)


def told_network(network: UNet | ControlNet, known: Known) -> Callable[..., Any]:
    """What the conditioning says of the batch is told to the blocks, if all those that read the text know of it."""
    transformers = [block for block in network.modules() if isinstance(block, SpatialTransformer)]
    plain: Callable[..., Any] = network.forward

    def forward(latent: Tensor, timestep: Tensor, conditioning: Told, *more: Any) -> Any:
        told = all(is_replaced(block) for block in transformers)
        known.copies = Conditioning.of(conditioning).copies if told else 1
        try:
            return plain(latent, timestep, conditioning, *more)
        finally:
            known.copies = 1

    return forward


def fused_residual_block(block: ResidualBlock, known: Known) -> Callable[..., Tensor]:
    def forward(x: Tensor, time: Tensor | None = None) -> Tensor:
        if not operations.fits(x, block.conv1.weight):
            return ResidualBlock.forward(block, x, time)
        part = len(x) // known.copies
        return repeated(compute(x[:part], None if time is None else time[:part]), known.copies)

    def compute(x: Tensor, time: Tensor | None) -> Tensor:
        added = None
        if block.time_emb_proj is not None and time is not None:
            added = operations.time_projection(block.time_emb_proj, time)
        # Between the two ends all is float32: what the convolution's own transforms round is made up for.
        hidden = operations.group_norm(x, block.norm1, silu=True, dtype=torch.float32)
        hidden = operations.convolution(hidden, block.conv1, added, dtype=torch.float32)
        hidden = operations.group_norm(hidden, block.norm2, silu=True, dtype=torch.float32)
        shortcut = x
        if block.conv_shortcut is not None:
            tokens = operations.linear(to_tokens(x), block.conv_shortcut)
            shortcut = to_map(tokens, x.shape[-2:])
        return operations.convolution(hidden, block.conv2, residual=shortcut)

    return forward


def fused_transformer(block: SpatialTransformer, known: Known) -> Callable[..., Tensor]:
    def forward(x: Tensor, text: Tensor) -> Tensor:
        copies, known.copies = known.copies, 1  # the first cross-attention tells them apart, here as below
        if not operations.fits(x, text, block.norm.weight):
            return SpatialTransformer.forward(block, x, text)
        part = x[: len(x) // copies]
        hidden = to_tokens(operations.group_norm(part, block.norm, silu=False))
        hidden = operations.linear(hidden, _projection(block.proj_in))
        for inner in block.transformer_blocks:
            assert isinstance(inner, TransformerBlock)
            hidden = self_attention(inner, hidden)
            if copies > 1:
                hidden, copies = repeated(hidden, copies), 1
            hidden = rest_of_block(inner, hidden, text, known)
        hidden = operations.linear(hidden, _projection(block.proj_out), to_tokens(x))
        return to_map(hidden, x.shape[-2:])

    return forward


def self_attention(block: TransformerBlock, x: Tensor) -> Tensor:
    """`TransformerBlock.forward`, first part."""
    normed = operations.layer_norm(x, block.norm1)
    own = block.attn1
    query, key, value = operations.fused_qkv(normed, own.to_q, own.to_k, own.to_v)
    return operations.linear(operations.attention(query, key, value, own.heads), _projection(own.to_out[0]), x)


def rest_of_block(block: TransformerBlock, x: Tensor, text: Tensor, known: Known) -> Tensor:
    """`TransformerBlock.forward`, what follows the self-attention."""
    cross = block.attn2
    last = known.keys.get(cross)
    if last is None or last[0] is not text:
        last = (text, operations.linear(text, cross.to_k), operations.linear(text, cross.to_v))
        known.keys[cross] = last
    query = operations.linear(operations.layer_norm(x, block.norm2), cross.to_q)
    x = operations.linear(operations.attention(query, last[1], last[2], cross.heads), _projection(cross.to_out[0]), x)

    gated, _, back = block.ff.net
    assert isinstance(gated, GEGLU)
    return operations.linear(operations.geglu(operations.layer_norm(x, block.norm3), gated.proj), _projection(back), x)


def fused_picture_attention(block: PictureAttention, _: Known) -> Callable[..., Tensor]:
    def forward(x: Tensor, context: Tensor | None = None) -> Tensor:
        if context is not None or not operations.fits(x, block.to_q.weight):
            return PictureAttention.forward(block, x, context)
        tokens = to_tokens(operations.group_norm(x, block.group_norm, silu=False))
        query, key, value = operations.fused_qkv(tokens, block.to_q, block.to_k, block.to_v)
        attended = operations.attention(query, key, value, block.heads)
        return to_map(operations.linear(attended, _projection(block.to_out[0]), to_tokens(x)), x.shape[-2:])

    return forward


def fused_upsample(block: Upsample, _: Known) -> Callable[..., Tensor]:
    def forward(x: Tensor, size: torch.Size | None = None) -> Tensor:
        if not operations.fits(x, block.conv.weight) or (
            size is not None and tuple(size) != (2 * x.shape[-2], 2 * x.shape[-1])
        ):
            return Upsample.forward(block, x, size)
        return operations.convolution(x, block.conv, upsampled=True)

    return forward


def fused_join(block: Join, _: Known) -> Callable[..., Tensor]:
    def forward(x: Tensor, other: Tensor) -> Tensor:
        return operations.joined(x, other) if operations.fits(x, other) else Join.forward(block, x, other)

    return forward


FUSED: dict[type[nn.Module], Callable[[Any, Known], Callable[..., Tensor]]] = {
    ResidualBlock: fused_residual_block,
    SpatialTransformer: fused_transformer,
    PictureAttention: fused_picture_attention,
    Upsample: fused_upsample,
    Join: fused_join,
}


def _on_cpu(weight: Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.is_cpu


def _projection(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer
