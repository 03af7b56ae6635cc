"""From a request's seeds to the noise that its pictures start from, and that its sampler adds on the way."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diafano.engine.devices import to_device
from diafano.noise.schedule import NoiseSource
from diafano.noise.variations import varied
from diafano.request.programs.table import find_program
from diafano.request.request import Request
from diafano.sampling.samplers.table import PathNoise, find_sampler


def noise_of_request(
    request: Request,
    places: range,
    shape: Sequence[int],
    sigmas: Callable[[Request], list[float]],
    device: torch.device,
) -> NoiseSource:
    """Gives unit-normal noise (len(places), *shape), float32, at each call; `shape` is one latent's (4, h, w).

    `places` are those of the request's batch that are drawn together. The noise is drawn on the CPU for each picture by
    itself, so that a picture depends on neither batch nor device. `sigmas` tells the noise levels of a request's run:
    where the program to draw like has its sampler follow a Brownian path, that leads through them.
    """
    program = find_program(request.like).with_generator(request.rng)
    # Variations have one seed; `expand` gives each of them what it draws.
    own = range(1) if request.varies and not program.one_generator_for_all else places
    draw = program.noise_source(request.seed, own, request.whole_batch, shape)
    if request.varies and request.variation_seed is not None and request.variation_strength is not None:
        other = program.noise_source(request.variation_seed, places, request.whole_batch, shape)
        draw = varied(draw, other, request.variation_strength)

    def on_device(noise: Tensor) -> Tensor:
        return to_device(noise.expand(len(places), *shape), device)

    if program.paths is None or not find_sampler(request.sampler).brownian:
        return lambda: on_device(draw())
    run = request if program.paths == "of the part that is run" else request.model_copy(update={"strength": None})
    path = program.path(request.seed, own, request.whole_batch, shape, sigmas(run))
    return PathNoise(lambda: on_device(draw()), lambda now, after: on_device(path(now, after)))
