"""The high-resolution pass: a picture is drawn small, where the model composes well, made larger, and drawn over there.

It is image-to-image from the first pass's result, with a request of its own: other size, steps and strength, the same
prompt, seed and sampler. What A1111 calls "hires fix" and ComfyUI builds from two samplers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diafano.engine.tiles import decode, encode
from diafano.networks.autoencoder import Autoencoder
from diafano.pictures.pixels import to_picture, to_pixels
from diafano.pictures.upscaling import Upscaler, covering, cut_out, upscaled_latent
from diafano.sampling.init_image import InitImage


def steps_from(
    on_step: Callable[[int, float, Tensor, Tensor], object] | None, before: int
) -> Callable[[int, float, Tensor, Tensor], object] | None:
    """`on_step` for a pass whose steps count on from so many before."""
    if on_step is None or before == 0:
        return on_step
    return lambda step, sigma, noisy, clean: on_step(before + step, sigma, noisy, clean)


def enlarged(
    latent: Tensor,
    size: tuple[int, int],
    autoencoder: Autoencoder,
    *,
    upscaler: Upscaler,
    tiles: bool | None = None,
) -> InitImage:
    """What the second pass at `size` (width, height) draws over: the first one's latents (batch, 4, h, w), enlarged.

    Where the shapes differ, they cover the size and are cut at their edges.
    """
    factor = autoencoder.factor
    rows, columns = latent.shape[-2:]
    width, height = covering((columns * factor, rows * factor), size)
    goal = size[0] // factor, size[1] // factor
    if upscaler.mode is not None:
        return InitImage(cut_out(upscaled_latent(latent, upscaler, (width // factor, height // factor)), goal))
    width, height = width // factor * factor, height // factor * factor
    latents = []
    for pixels in decode(autoencoder, latent, tiles=tiles):
        picture = upscaler.upscale(to_picture(pixels), size=(width, height))
        latents.append(cut_out(encode(autoencoder, to_pixels(picture)[None], tiles=tiles), goal))
    return InitImage(torch.cat(latents))
