"""Several requests drawn as one batch: each of its pictures is the one that its request draws alone, up to rounding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from diafano.engine.exclusive import exclusive
from diafano.engine.precision import run_with_nan_guard
from diafano.networks.conditioning import Conditioning
from diafano.networks.tileable import tileable
from diafano.noise.schedule import NoiseSource
from diafano.pictures.metadata import with_parameters
from diafano.pictures.pixels import to_picture
from diafano.request.plan import Pass, Plan
from diafano.request.request import Request
from diafano.sampling.prompts import StepPrompts
from diafano.sampling.run import OnStep, Watchers
from diafano.sampling.samplers.stepping import PathNoise
from diafano.stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class _Part:
    """One of the requests, planned."""

    request: Request
    plan: Plan
    prompts: list[StepPrompts]
    rows: slice
    """Its pictures in the batch."""

    @property
    def first(self) -> Pass:
        return self.plan.passes[0]

    @property
    def places(self) -> range:
        return self.plan.batches[0]


@torch.inference_mode()
def draw_together(
    model: StableDiffusion, requests: Sequence[Request], on_step: OnStep | None = None
) -> list[list[Image.Image]]:
    """The pictures of each request. `on_step` is told of each step of the whole batch, rows in the requests' order.

    The requests differ in prompt, negative prompt, seed and count alone (`Order.kin`). Where their texts cannot lie in
    one batch (more parts, other lengths), each is drawn by itself.
    """
    if len(requests) == 1:
        return [model.draw(requests[0], on_step)]
    with exclusive(model.unet, model.text_encoder, model.autoencoder), tileable(requests[0].tileable):
        parts = _parts(model, requests)
        if parts is None:
            return [model.draw(request, on_step) for request in requests]
        run = partial(model.denoise, parts[0].first, _joined(parts), watchers=Watchers().and_on_step(on_step))
        latent = run_with_nan_guard(run, partial(_noise, model, parts), model.device)
        pictures = [to_picture(pixels) for pixels in model.decode(latent, requests[0].tiles)]
    found: list[list[Image.Image]] = []
    for part in parts:
        recorded = model.recorded(part.request, (), model.addons.loras_of(part.request.prompt))
        own = zip(part.places, pictures[part.rows], strict=True)
        found.append([with_parameters(picture, recorded(place)) for place, picture in own])
    return found


def _parts(model: StableDiffusion, requests: Sequence[Request]) -> list[_Part] | None:
    """The requests, planned; None where they do not fit in one batch."""
    parts: list[_Part] = []
    end = 0
    for request in requests:
        plan = model.plan(request)
        first = plan.passes[0]
        if len(plan.passes) != 1 or len(plan.batches) != 1:
            return None
        parts.append(_Part(request, plan, model.prompts_of(plan, first), slice(end, end + request.count)))
        end += request.count
    shapes = parts[0].prompts[0].negative.shapes if parts[0].prompts else {}
    for part in parts:
        for said in part.prompts:
            (text, weight), *others = said.positive
            if others or weight != 1.0 or text.shapes != shapes or said.negative.shapes != shapes:
                return None
    return parts


def _joined(parts: Sequence[_Part]) -> list[StepPrompts]:
    """What all are told in each step; steps in which nobody is told anything else share one object."""
    known: dict[tuple[int, ...], StepPrompts] = {}

    def joined(said: tuple[StepPrompts, ...]) -> StepPrompts:
        key = tuple(map(id, said))
        if key not in known:

            def rows(text_of: Callable[[StepPrompts], Conditioning]) -> Conditioning:
                each = zip(said, parts, strict=True)
                return Conditioning.cat([text_of(one).expand(part.request.count) for one, part in each])

            known[key] = StepPrompts(((rows(lambda one: one.positive[0][0]), 1.0),), rows(lambda one: one.negative))
        return known[key]

    return [joined(said) for said in zip(*(part.prompts for part in parts), strict=True)]


def _noise(model: StableDiffusion, parts: Sequence[_Part]) -> NoiseSource:
    """What each picture gets alone, behind one another; begun anew."""
    sources = [model.noise(part.first, part.places) for part in parts]

    def draw() -> Tensor:
        return torch.cat([source() for source in sources])

    if not all(isinstance(source, PathNoise) for source in sources):
        return draw

    def between(now: float, after: float) -> Tensor:
        return torch.cat([source.between(now, after) for source in sources if isinstance(source, PathNoise)])

    return PathNoise(draw, between)
