"""The autoencoder on large pictures, in bands of rows: the plain network's numbers in a fraction of its memory.

Overlapping tiles that are blended give another picture: group norm takes its mean and variance over the whole map, and
the attention in the middle sees all positions. Here every map is computed as a whole, but one band of rows after the
other, and only what is needed later is kept:

    norm, SiLU, convolution    one go over the map for mean and variance; then each band is normalised on its way into
                               the convolution, together with the rows above and below that the kernel sees
    residual block             its result is added to its input in place
    attention                  some queries after the other
    very large maps            those that enter a level of the decoder, with the channels of the level before: not kept
                               but computed twice, once for mean and variance (for the finest level of Stable
                               Diffusion 1, 12% more arithmetic in all)

So at its finest level the decoder keeps two maps. The modules and their order are those of the `forward` methods in
`networks`, which tests hold this against; the results differ by rounding alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diafano.engine import operations
from diafano.engine.fused import is_fused
from diafano.networks.autoencoder import Autoencoder, Encoder, LatentDistribution, MiddleBlock
from diafano.networks.layers import PictureAttention, ResidualBlock, attend, to_map, to_tokens
from diafano.networks.tileable import padded, wrapped_axes

BAND_VALUES = 8 * 2**20
"""Most values of a band: enough work for all cores at a time, little memory beside the maps."""
LARGEST_KEPT = 2**30
"""Most bytes of a map that is kept although it could be computed twice."""
SCORES = 2**27
"""Most products of queries and keys at a time, for devices whose attention writes them all down."""


@dataclass(frozen=True)
class Rows:
    """A map (1, channels, height, width) that is read some rows at a time and need not exist as a whole."""

    channels: int
    height: int
    width: int
    dtype: torch.dtype
    """Of the map in the network; what is `activated` for the engine is read in float32 all the same."""
    read: Callable[[int, int], Tensor]
    """``read(first, end)``: rows first to end - 1, within the map -> (1, channels, end - first, width)."""

    def bands(self) -> Iterator[tuple[int, int]]:
        """(first, end) of each band, from the top down."""
        return pairwise([*range(0, self.height, max(1, BAND_VALUES // (self.channels * self.width))), self.height])


def rows_of(x: Tensor | Rows) -> Rows:
    """The rows of a map that is stored; those of another as they are."""
    if isinstance(x, Rows):
        return x
    return Rows(x.shape[1], x.shape[2], x.shape[3], x.dtype, lambda first, end: x[:, :, first:end])


def store(rows: Rows) -> Tensor:
    """All of a map, in memory of its own."""
    (whole,) = store_together(rows)
    return whole


def store_together(*maps: Rows) -> list[Tensor]:
    """Several maps of one height; of what they all read a band is computed once, see `remembered`."""
    stores: list[Tensor] = []
    for first, end in max(maps, key=lambda rows: rows.channels * rows.width).bands():
        for number, rows in enumerate(maps):
            band = rows.read(first, end)
            if number == len(stores):
                size = (1, rows.channels, rows.height, rows.width)
                whole = torch.empty(size, dtype=band.dtype, device=band.device, memory_format=torch.channels_last)
                stores.append(whole)
            stores[number][:, :, first:end] = band
    return stores


def remembered(rows: Rows) -> Rows:
    """The same map, whose last band is kept, so that readers who take turns have it computed once."""
    last: list[tuple[int, int, Tensor]] = []

    def read(first: int, end: int) -> Tensor:
        if not (last and last[0][0] <= first and end <= last[0][1]):
            last.clear()
            last.append((first, end, rows.read(first, end)))
        begin, _, band = last[0]
        return band[:, :, first - begin : end - begin]

    return Rows(rows.channels, rows.height, rows.width, rows.dtype, read)


def doubled(rows: Rows) -> Rows:
    """Twice the height and width by repetition."""

    def read(first: int, end: int) -> Tensor:
        band = F.interpolate(rows.read(first // 2, (end + 1) // 2), scale_factor=2.0, mode="nearest")
        return band[:, :, first % 2 : first % 2 + end - first]

    return Rows(rows.channels, 2 * rows.height, 2 * rows.width, rows.dtype, read)


def convolved(rows: Rows, conv: nn.Conv2d, *, before: int = 1, after: int = 1, fused: bool = False) -> Rows:
    """A convolution of the map with so many rows and columns put before and after it.

    It is computed as `engine.accelerated` computes it where that is `fused` (3x3, stride 1, a row on each side).
    """
    stride, size = conv.stride[0], conv.kernel_size[0]
    height, width = ((edge + before + after - size) // stride + 1 for edge in (rows.height, rows.width))
    _, wraps = wrapped_axes()

    def read(first: int, end: int) -> Tensor:
        begin, stop = first * stride - before, (end - 1) * stride - before + size
        above, below = max(-begin, 0), max(stop - rows.height, 0)
        outer = [rows.read(rows.height - above, rows.height)] if wraps and above else []
        under = [rows.read(0, below)] if wraps and below else []
        band = rows.read(max(begin, 0), min(stop, rows.height))
        if wraps:
            band = torch.cat([*outer, band, *under], dim=2)
            above = below = 0
        if fused:
            # Its zeros are right beside the map. Otherwise the first and the last row have only lent their values.
            skipped = 1 - above
            return operations.convolution(band, conv)[:, :, skipped : skipped + end - first]
        return F.conv2d(padded(band, (before, after, above, below)), conv.weight, conv.bias, stride)

    return Rows(conv.out_channels, height, width, rows.dtype, read)


def activated(rows: Rows, norm: nn.GroupNorm, *, fused: bool = False) -> Rows:
    """SiLU of the normalised map; the mean and variance of its groups are taken at once, over all bands.

    What comes after it as `fused` takes half-precision maps in float32, before they are rounded.
    """
    heights, means, variances = [], [], []
    for first, end in rows.bands():
        band = rows.read(first, end)
        band = band.to(torch.promote_types(band.dtype, torch.float32)).contiguous(memory_format=torch.channels_last)
        values = band.shape[2] * band.shape[3]
        # With eps 0 what it calls rstd is 1 / standard deviation, infinite where all values are equal.
        _, mean, inverse = torch.native_group_norm(band, None, None, 1, rows.channels, values, norm.num_groups, 0.0)
        heights.append(end - first)
        means.append(mean[0])
        variances.append(inverse[0] ** -2)
    share = torch.tensor(heights, dtype=means[0].dtype, device=means[0].device)[:, None] / rows.height
    mean = (share * torch.stack(means)).sum(0)  # (groups,)
    variance = (share * (torch.stack(variances) + (torch.stack(means) - mean) ** 2)).sum(0)
    scale, mean = (
        each.repeat_interleave(rows.channels // norm.num_groups) for each in ((variance + norm.eps).rsqrt(), mean)
    )
    scale = norm.weight * scale
    shift = norm.bias - mean * scale

    def read(first: int, end: int) -> Tensor:
        band = rows.read(first, end)
        normal = torch.addcmul(shift[:, None, None], band, scale[:, None, None])
        active = F.silu(normal, inplace=True)
        return active if fused else active.to(band.dtype)

    return Rows(rows.channels, rows.height, rows.width, rows.dtype, read)


def residual_block(block: ResidualBlock, x: Tensor | Rows) -> Tensor:
    """`ResidualBlock.forward` of x (1, in, h, w); where the channels stay the same, a tensor x is written over."""
    rows = remembered(rows_of(x))
    fused = is_fused(block, rows.dtype)
    hidden = convolved(activated(rows, block.norm1, fused=fused), block.conv1, fused=fused)
    if block.conv_shortcut is not None:
        kept, total = store_together(hidden, convolved(rows, block.conv_shortcut, before=0, after=0))
    else:
        kept, total = store(hidden), x if isinstance(x, Tensor) else store(rows)
    change = convolved(activated(rows_of(kept), block.norm2, fused=fused), block.conv2, fused=fused)
    for first, end in change.bands():
        total[:, :, first:end] += change.read(first, end)
    return total


def middle_block(block: MiddleBlock, x: Tensor) -> Tensor:
    """`MiddleBlock.forward`: its maps are those of the latent and small, its attention's scores are not."""
    x = block.resnets[0](x)
    for attention in block.attentions:
        assert isinstance(attention, PictureAttention)  # one head
        if is_fused(attention, x.dtype):  # which writes no scores down
            x = attention(x)
            continue
        tokens = to_tokens(attention.group_norm(x))
        key, value = attention.to_k(tokens)[:, None], attention.to_v(tokens)[:, None]  # (1, 1, h*w, c)
        queries = attention.to_q(tokens)[:, None].split(max(1, SCORES // tokens.shape[1]), dim=2)
        attended = torch.cat([attend(query, key, value) for query in queries], dim=2)[:, 0]
        x = x + to_map(attention.to_out[0](attended), x.shape[-2:])
    x = block.resnets[1](x)
    return x


def _levels(blocks: nn.ModuleList) -> Iterator[Any]:
    """The levels, of whose types a ModuleList knows nothing."""
    return iter(blocks)


@torch.no_grad()
def decode(autoencoder: Autoencoder, latent: Tensor) -> Tensor:
    """`Autoencoder.decode`: latents (b, 4, h, w) of unit scale -> pixels (b, 3, factor * h, factor * w)."""
    scaled = latent / autoencoder.config.latent_scale
    return torch.cat([_decode_one(autoencoder, one) for one in scaled.split(1)])


def _decode_one(autoencoder: Autoencoder, latent: Tensor) -> Tensor:
    decoder = autoencoder.decoder
    x: Tensor | Rows = middle_block(decoder.mid_block, decoder.conv_in(autoencoder.post_quant_conv(latent)))
    for level in _levels(decoder.up_blocks):
        for block in level.resnets:
            x = residual_block(block, x)
        for upsample in level.upsamplers:
            entering = convolved(doubled(rows_of(x)), upsample.conv, fused=is_fused(upsample, latent.dtype))
            values = entering.channels * entering.height * entering.width
            x = store(entering) if values * latent.element_size() <= LARGEST_KEPT else entering
    return store(convolved(activated(rows_of(x), decoder.conv_norm_out), decoder.conv_out))


@torch.no_grad()
def encode(autoencoder: Autoencoder, pixels: Tensor) -> LatentDistribution:
    """`Autoencoder.encode`: pixels (b, 3, H, W) in [-1, 1] -> distribution of latents (b, 4, H/factor, W/factor)."""
    encoded = torch.cat([_encode_one(autoencoder.encoder, one) for one in pixels.split(1)])
    return autoencoder.distribution(*autoencoder.split_moments(encoded))


def _encode_one(encoder: Encoder, pixels: Tensor) -> Tensor:
    x = store(convolved(rows_of(pixels), encoder.conv_in))
    for level in _levels(encoder.down_blocks):
        for block in level.resnets:
            x = residual_block(block, x)
        for downsample in level.downsamplers:
            x = store(convolved(rows_of(x), downsample.conv, before=0))
    x = middle_block(encoder.mid_block, x)
    return store(convolved(activated(rows_of(x), encoder.conv_norm_out), encoder.conv_out))
