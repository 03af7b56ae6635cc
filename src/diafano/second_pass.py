"""The high-resolution pass: a picture is drawn small, where the model composes well, made larger, and drawn over there.

It is image-to-image from the first pass's result, with a request of its own: other size, steps and strength, the same
prompt, seed and sampler. What A1111 calls "hires fix" and ComfyUI builds from two samplers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diafano.autoencoder import Autoencoder
from diafano.errors import UserError
from diafano.from_picture import InitImage
from diafano.picture import to_picture, to_pixels
from diafano.request import Request
from diafano.request_parts import LARGEST_EDGE, Steps
from diafano.tiles import decode, encode
from diafano.upscaling import covering, cut_out, find_upscaler, upscaled_latent


class SecondRequest(Request):
    """The request of a second pass."""

    first_steps: Steps
    """Of the pass before."""


def steps_before(request: Request) -> int:
    """The steps of the pass before a second one, 0 where the request is of the first or only one."""
    return request.first_steps if isinstance(request, SecondRequest) else 0


def passes_of(request: Request, size_step: int) -> list[Request]:
    """The requests of the passes, one after the other. Sizes are rounded down to multiples of `size_step`, in pixels.

    Raises UserError for a second pass at a size that cannot be drawn.
    """
    if request.hires is None and request.hires_size is None:
        return [request]
    if request.hires_size is not None:
        width, height = request.hires_size
        if width % size_step or height % size_step:
            raise UserError(
                f"hires_size {width}x{height} is not possible: width and height must be multiples of {size_step}"
            )
    else:
        assert request.hires is not None
        width, height = (int(request.hires * edge) // size_step * size_step for edge in request.size)
        if max(width, height) > LARGEST_EDGE:
            raise UserError(
                f"hires {request.hires} makes {request.size[0]}x{request.size[1]} too large, {width}x{height}:"
                f" edges are at most {LARGEST_EDGE} pixels"
            )
    second = {
        "size": (width, height),
        "steps": request.steps if request.hires_steps is None else request.hires_steps,
        "strength": request.hires_strength,
        "first_steps": request.steps,
        "hires": None,
        "hires_size": None,
    }
    return [request, SecondRequest.model_construct(**{**dict(request), **second})]


def counted_on(
    on_step: Callable[[int, float, Tensor, Tensor], object] | None, before: int
) -> Callable[[int, float, Tensor, Tensor], object] | None:
    """`on_step` for a pass whose steps count on from so many before."""
    if on_step is None or before == 0:
        return on_step
    return lambda step, sigma, noisy, clean: on_step(before + step, sigma, noisy, clean)


def enlarged(
    latent: Tensor,
    request: Request,
    size: tuple[int, int],
    autoencoder: Autoencoder,
) -> InitImage:
    """What the second pass at `size` (width, height) draws over: the first one's latents (batch, 4, h, w), enlarged.

    Where the shapes differ, they cover the size and are cut at their edges.
    """
    upscaler, factor = find_upscaler(request.hires_upscaler), autoencoder.factor
    width, height = covering(request.size, size)
    goal = size[0] // factor, size[1] // factor
    if upscaler.mode is not None:
        return InitImage(cut_out(upscaled_latent(latent, upscaler, (width // factor, height // factor)), goal))
    width, height = width // factor * factor, height // factor * factor
    latents = []
    for pixels in decode(autoencoder, latent, tiles=request.tiles):
        picture = to_picture(pixels).resize((width, height), upscaler.filter)
        latents.append(cut_out(encode(autoencoder, to_pixels(picture)[None], tiles=request.tiles), goal))
    return InitImage(torch.cat(latents))
