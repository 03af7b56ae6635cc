"""Layers that the autoencoder and the UNet are made of: residual block, attention, resampling, time embedding.

Attribute names are those of diffusers' state dicts, the format in which models are stored, so a diffusers folder
needs no table of names. Pictures and latents are (batch, channels, height, width); tokens are (batch, count, width).
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diafano.networks.tileable import padded


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all weights and biases zero: before training it adds nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def sinusoidal_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sines and cosines of a timestep at geometrically spaced frequencies: (batch,) -> (batch, width), float32.

    Cosines come first, as in Stable Diffusion's UNet (Ho et al. 2020, after Vaswani et al. 2017).
    """
    half = width // 2
    exponent = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angle = timestep.to(torch.float32)[:, None] * exponent.exp()[None, :]
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers on the sinusoidal embedding: (batch, width) -> (batch, out_width)."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, out_width)
        self.linear_2 = nn.Linear(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear_2(F.silu(self.linear_1(x)))
        return x


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut: (batch, in, h, w) -> (batch, out, h, w).

    With `time_width`, the embedded timestep (batch, time_width) is added between the two convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, eps: float, time_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out_channels) if time_width is not None else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        shortcut: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut + hidden


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """softmax(query key^T / sqrt(width)) value: (..., n, width), (..., m, width) twice -> (..., n, width).

    `causal`: a query sees the keys up to its own place only.
    """
    if query.is_cpu and query.requires_grad:  # torch's fused attention takes several times as long backwards there
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        attended: Tensor = scores.softmax(dim=-1).to(value.dtype) @ value
        return attended
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


class Attention(nn.Module):
    """Multi-head attention from tokens (batch, n, width) to a context (batch, m, context_width), or to themselves."""

    def __init__(self, width: int, heads: int, *, context_width: int | None = None, bias: bool = False) -> None:
        super().__init__()
        context_width = width if context_width is None else context_width
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_width, width, bias=bias)
        self.to_v = nn.Linear(context_width, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        query, key, value = (self._split(tokens) for tokens in (self.to_q(x), self.to_k(context), self.to_v(context)))
        attended = attend(query, key, value)  # (batch, heads, n, head width)
        out: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))  # (batch, n, width)
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        """(batch, n, width) -> (batch, heads, n, head width)."""
        split: Tensor = tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


class PictureAttention(Attention):
    """The autoencoder's self-attention over all positions, with its own norm and residual: (b, c, h, w) -> same."""

    def __init__(self, channels: int, *, groups: int, eps: float) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x + to_map(super().forward(to_tokens(self.group_norm(x)), context), x.shape[-2:])


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another (Shazeer 2020): (..., width) -> (..., out_width)."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out_width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """GEGLU to four times the width and back. The identity keeps the index that diffusers gives to dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward, each with its norm before and its residual."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width=text_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        x = x + self.ff(self.norm3(x))
        return x


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map: (b, c, h, w), text (b, m, text_width) -> (b, c, h, w).

    `linear_projection` says whether the projections around it are linear layers (v2) or 1x1 convolutions (v1); the
    arithmetic is the same, the stored weights' shapes are not.
    """

    def __init__(self, channels: int, heads: int, text_width: int, *, groups: int, linear_projection: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in: nn.Module = (
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, text_width)])
        self.proj_out: nn.Module = (
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )
        self.linear_projection = linear_projection

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        size = x.shape[-2:]
        hidden = self.norm(x)
        hidden = self.proj_in(to_tokens(hidden)) if self.linear_projection else to_tokens(self.proj_in(hidden))
        for block in self.transformer_blocks:
            hidden = block(hidden, text)
        hidden = to_map(self.proj_out(hidden), size) if self.linear_projection else self.proj_out(to_map(hidden, size))
        return x + hidden


class Join(nn.Module):
    """The channels of two maps, one after the other: (b, c, h, w), (b, d, h, w) -> (b, c + d, h, w)."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.cat([x, other], dim=1)


class Downsample(nn.Module):
    """Halve height and width by a 3x3 convolution of stride 2: (b, c, h, w) -> (b, c, h/2, w/2), rounded up.

    The autoencoder pads on the right and bottom alone (`symmetric=False`), the UNet on all sides.
    """

    def __init__(self, channels: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if self.symmetric else padded(x, (0, 1, 0, 1)))
        return x


class Upsample(nn.Module):
    """Double height and width by repetition, then a 3x3 convolution: (b, c, h, w) -> (b, c, 2h, 2w).

    Where `size` is given, it is that of the result: an odd map that a `Downsample` has halved, rounding up, has it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        if size is None:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        else:
            x = F.interpolate(x, size=size, mode="nearest")
        x = self.conv(x)
        return x


def to_tokens(x: Tensor) -> Tensor:
    """(batch, c, h, w) -> (batch, h*w, c); no copy when the memory is channels_last."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: torch.Size) -> Tensor:
    """(batch, h*w, c) -> (batch, c, h, w), a view that is channels_last in memory."""
    mapped: Tensor = tokens.transpose(1, 2).unflatten(2, size)
    return mapped


def widths_in_turn(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(a, b, c) -> [(a, a), (a, b), (b, c)]: the width that enters each level and the width that leaves it."""
    return list(pairwise((widths[0], *widths)))
