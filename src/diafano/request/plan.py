"""The plan of a request: what its names mean for one model, resolved once; everything that a run is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning
from diafano.noise.process import Process
from diafano.request.fields import LARGEST_EDGE
from diafano.request.programs.program import PathSpan, Program
from diafano.request.programs.table import find_program
from diafano.request.request import Request
from diafano.sampling.guidance import guidance_of_steps
from diafano.sampling.noise import SeededNoise
from diafano.sampling.prompts import StepPrompts, prompts_of_steps
from diafano.sampling.run import RunPlan
from diafano.sampling.samplers.table import Sampler, find_sampler
from diafano.text_encoder.lora_tags import without_tags

BATCH_PIXELS = 4 * 512 * 512
"""Most pixels of pictures that are denoised at once; memory grows with it, speed on a full device does not."""


@dataclass(frozen=True)
class Pass:
    """One run of the sampler for each batch: the first or only one, or the second one at high resolution."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    run: RunPlan
    noise: SeededNoise
    steps_before: int = 0
    """Of the pass before."""


@dataclass(frozen=True)
class Plan:
    """What is drawn of a request, pass by pass and batch by batch."""

    request: Request
    program: Program
    passes: tuple[Pass, ...]

    @property
    def sigmas(self) -> Sequence[float]:
        """Of the first pass."""
        return self.passes[0].run.sigmas

    @property
    def steps(self) -> int:
        """Of all passes: how often a watcher is told of a step, for each of `batches`."""
        return sum(one.run.steps for one in self.passes)

    @property
    def batches(self) -> list[range]:
        """The places (0 is the first picture's) of the pictures that are drawn together, batch by batch."""
        request = self.request
        at_once = max(1, BATCH_PIXELS // max(math.prod(one.size) for one in self.passes))
        end = request.batch_position + request.count
        return [range(first, min(first + at_once, end)) for first in range(request.batch_position, end, at_once)]

    def prompts_of(self, one: Pass, encode: "Encode") -> list[StepPrompts]:
        """What the network is told of the request's texts in each step of a pass."""
        request, program = self.request, self.program
        prompt, skip = without_tags(request.prompt), request.clip_skip
        if program.weighting in ("a1111", "diafano"):
            always, exact = partial(encode, skip=skip, negative=False), program.weighting == "a1111"
            return prompts_of_steps(prompt, request.negative, one.run.steps, always, one.steps_before, exact=exact)
        positive = encode(prompt, skip=skip, negative=False)
        negative = encode(request.negative, skip=skip if program.skips_in_negative else 1, negative=True)
        return [StepPrompts(((positive, 1.0),), negative)] * one.run.steps


class Encode(Protocol):
    """A text -> what it tells the network, one row."""

    def __call__(self, text: str, /, *, skip: int, negative: bool) -> Conditioning: ...


def plan_of(request: Request, process: Process, size_step: int) -> Plan:
    """The plan of a request to a model of that noise process, whose pictures' edges are multiples of `size_step`.

    Raises UserError for what the model, or the program to draw like, cannot do.
    """
    program = find_program(request.like).with_generator(request.rng)
    sampler = find_sampler(request.sampler)
    passes: list[Pass] = []
    before = 0
    for size in sizes_of(request, size_step):
        steps, strength = request.steps, request.strength
        if passes:
            steps = request.steps if request.hires_steps is None else request.hires_steps
            strength = request.hires_strength
        whole = program.grid(sampler, request.schedule, process, steps)
        sigmas = whole
        if strength is not None:
            sigmas = program.part_of_run(sampler, request.schedule, process, steps, strength, second=bool(passes))
        run = RunPlan(
            sigmas,
            program.function(sampler, process),
            _guidance(request, program, len(sigmas) - 1),
            request.sampler_options,
            rescale=request.guidance_rescale,
            starts_at_sigma=program.starts_at_sigma(sampler, process, sigmas[0]),
            from_noise=strength == 1.0,
            timesteps=program.whole_timesteps(sampler, request.schedule),
            cache_interval=request.deep_cache,
            like_a1111=program.name == "a1111",
        )
        path = sigmas if program.paths is PathSpan.PART_THAT_IS_RUN else whole
        passes.append(Pass(size, run, _noise(request, program, sampler, path), before))
        before = request.steps
    return Plan(request, program, tuple(passes))


def sizes_of(request: Request, size_step: int) -> list[tuple[int, int]]:
    """(width, height) of the passes in pixels, those of a second one rounded down to multiples of `size_step`.

    Raises UserError for a second pass at a size that cannot be drawn.
    """
    if request.hires is None and request.hires_size is None:
        return [request.size]
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
    return [request.size, (width, height)]


def _guidance(request: Request, program: Program, steps: int) -> list[float]:
    """Of each step."""
    guidance = guidance_of_steps(request.guidance, request.guidance_interval, steps)
    return [max(1.0, strength) for strength in guidance] if program.guides_above_1 else guidance


def _noise(request: Request, program: Program, sampler: Sampler, path: Sequence[float]) -> SeededNoise:
    variation = None
    if request.varies and request.variation_seed is not None and request.variation_strength is not None:
        variation = request.variation_seed, request.variation_strength
    follows_path = program.paths is not None and sampler.brownian
    return program.noise(request.seed, request.whole_batch, variation, path if follows_path else None)
