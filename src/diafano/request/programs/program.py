"""Programs: what else must be equal, besides the settings, for another program to draw the same picture.

The same prompt, seed, sampler and steps give different pictures in different programs, because each has habits that no
setting names. A `Program` (`--like`) takes on all habits of one program at once:

                     diffusers                a1111                     comfyui                   (none: diafano)
    start noise      CPU generator            GPU's Philox stream       CPU generator             CPU generator
    noise on the way goes on with it          goes on with it           GPU's Philox, same seed   goes on with it
    noise of the     goes on with it          of a Brownian path,      of a Brownian path on    goes on with it
    SDE samplers                              GPU's Philox             the CPU
    of a batch       a generator a picture,   a generator a picture,    one generator for the     a generator a picture,
                     seed + i                 seed + i                  whole batch               seed + i
    first latent     the network sees pure    sigma * noise; DDIM,      the network sees pure     the network sees pure
                     noise; Euler and kin     PLMS: the network sees    noise at the largest      noise
                     sigma * noise, unless    pure noise                sigma, else sigma * noise
                     spacing is "leading"
    "automatic"      uniform                  what its menu says        normal                    what `samplers` lists
    "uniform"        timesteps as each of     k-diffusion's get_sigmas  k-diffusion's get_sigmas  the model's own
                     its schedulers does, in  ("normal" here)           ("normal" here)           spacing
                     the model's spacing or
                     the scheduler's own
    next to last     kept                     left out by DPM2, DPM2 a, left out by DPM2, DPM2 a, as a1111
    sigma                                     DPM++ 3M SDE              UniPC
    DDIM, PLMS end   where it was trained     one step early, at        at 0 (DDIM is Euler)      where it was trained
                     (`final_sigma`)          timestep 1
    timesteps that   whole for DPM-Solver     fractional                rounded to whole          fractional
    the network sees and UniPC, else
                     fractional
    PLMS with v      mixes v's                mixes slopes              does not have it          mixes slopes
    CLIP skip        of the prompt alone      of both prompts           of both prompts           of both prompts

CLIP skip 1 is the last layer, 2 the one before, and the final norm is applied, in all of them; diffusers' own number
for it, `clip_skip`, is 1 less, ComfyUI's, `stop_at_clip_layer`, is negative.
All of them end at 0 but for DDIM and PLMS. Sources: diffusers 0.3x's schedulers; A1111 1.10's rng.py,
sd_samplers_kdiffusion.py, sd_samplers_timesteps_impl.py, sd_schedulers.py; ComfyUI's samplers.py, model_sampling.py.
The grids themselves are in `sampling.sigmas`; each program's file beside this says which of them it means.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.noise.brownian import BrownianPath
from diafano.noise.schedule import NoiseSchedule, NoiseSource
from diafano.noise.sources import GENERATORS, Draw, cpu
from diafano.request.programs import grids
from diafano.sampling.samplers.table import Sampler
from diafano.text_encoder.prompt_embedding import Weighting

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(latent, timestep, text)``, as in `sampling.denoiser`."""


OTHER_UNIPC = "it is another variant of UniPC there"
"""Said of A1111 and ComfyUI alike."""


@dataclass(frozen=True)
class Program:
    """A column of the table above."""

    name: str
    start_noise: Callable[[int], Draw] = cpu
    noise_on_the_way: Callable[[int], Draw] | None = None
    """None: the generator of the start noise goes on."""
    one_generator_for_all: bool = False
    grid: grids.Grid = grids.diafano_grid
    """``grid(sampler, name of the schedule, trained schedule, steps)`` -> the falling sigmas of the run."""
    starts_at_sigma: Callable[[Sampler, NoiseSchedule, float], bool] = lambda sampler, schedule, sigma: False
    """Whether the first latent is ``sigma * noise``; otherwise the network sees pure noise first."""
    automatic: Callable[[Sampler], str] = lambda sampler: sampler.schedule
    whole_timesteps: Callable[[Sampler, str], Callable[[Tensor], Tensor] | None] = lambda sampler, schedule: None
    """How the timesteps that the network sees are made whole, given sampler and schedule; None: they stay."""
    skips_in_negative: bool = True
    """Whether CLIP skip goes for the negative prompt too."""
    weighting: Weighting | None = "a1111"
    """How weights in a prompt are applied; None: a prompt has no syntax."""
    strength_runs: Literal["share", "share and one", "of a longer run"] = "share"
    """What `part_of_run` runs of a picture's strength."""
    paths: Literal["of the whole run", "of the part that is run"] | None = None
    """Between which sigmas the noise of stochastic equations is a Brownian path; None: each draw stands alone."""
    functions_for_v: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    """Samplers that are run otherwise with models that predict v, and how."""
    second_pass_runs: Literal["share", "share and one", "of a longer run"] | None = None
    """The same of a second pass (`sampling.hires`); None: as of any picture."""
    lacks: frozenset[str] = frozenset()
    """Samplers that the program does not have."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """Samplers that it has, but that draw another picture here, and why."""

    def noise_source(self, seed: int, places: range, batch: int, shape: Sequence[int]) -> NoiseSource:
        """Noise (len(places), *shape) at each call, for the pictures at those places of a batch of `batch`.

        Whatever pictures are drawn together, each gets the noise that it would have got alone, or in the whole batch.
        """
        if not self.one_generator_for_all:
            draws = [self.start_noise(seed + place) for place in places]
            return lambda: torch.cat([draw((1, *shape)) for draw in draws])
        start = self.start_noise(seed)
        further = start if self.noise_on_the_way is None else self.noise_on_the_way(seed)
        calls = iter([start])
        return lambda: next(calls, further)((batch, *shape))[places.start : places.stop]

    def path(
        self, seed: int, places: range, batch: int, shape: Sequence[int], sigmas: Sequence[float]
    ) -> Callable[[float, float], Tensor]:
        """``path(now, after)``: unit-normal noise (len(places), *shape) of the way between two of the run's sigmas."""
        ends = min(sigma for sigma in sigmas if sigma > 0.0), max(sigmas)
        if self.one_generator_for_all:
            paths = [BrownianPath(seed, (batch, *shape), *ends, self.start_noise)]
        else:
            paths = [BrownianPath(seed + place, (1, *shape), *ends, self.start_noise) for place in places]

        def between(now: float, after: float) -> Tensor:
            noise = torch.cat([path(now, after) for path in paths]) / math.sqrt(abs(now - after))
            return noise[places.start : places.stop] if self.one_generator_for_all else noise

        return between

    def start(self, noise: Tensor, sampler: Sampler, schedule: NoiseSchedule, sigma: float) -> Tensor:
        """The first latent, in the samplers' currency."""
        return sigma * noise if self.starts_at_sigma(sampler, schedule, sigma) else schedule.start(noise, sigma)

    def part_of_run(
        self, sampler: Sampler, name: str, schedule: NoiseSchedule, steps: int, strength: float, second: bool = False
    ) -> list[float]:
        """The falling sigmas of drawing over a picture; at strength 0 one sigma, which is no step.

        `second`: the picture is the first pass's.
        """
        runs = self.second_pass_runs if second and self.second_pass_runs is not None else self.strength_runs
        if runs == "of a longer run" and strength > 0:
            return self.grid(sampler, name, schedule, int(steps / strength))[-steps - 1 :]
        sigmas = self.grid(sampler, name, schedule, steps)
        run = int(strength * (len(sigmas) - 1))
        if runs == "share and one" and 0 < strength < 1:
            run += 1
        return sigmas[len(sigmas) - 1 - run :]

    def finish(self, latent: Tensor, sampler: Sampler, schedule: NoiseSchedule, sigmas: Sequence[float]) -> Tensor:
        """The latent to decode, of a run along `sigmas`."""
        exploding = self.starts_at_sigma(sampler, schedule, sigmas[0])
        return latent if exploding else schedule.finish(latent, sigmas[-1])

    def function(self, sampler: Sampler, schedule: NoiseSchedule) -> Callable[..., Tensor]:
        """What runs the sampler, to be called as `Sampler.function` is."""
        if schedule.config.prediction != "v":
            return sampler.function
        return self.functions_for_v.get(sampler.name, sampler.function)

    def network(self, network: Network, sampler: Sampler, schedule: str) -> Network:
        """The network as the program asks it: at whole timesteps, where it rounds them."""
        whole = self.whole_timesteps(sampler, schedule)
        return network if whole is None else lambda latent, timestep, text: network(latent, whole(timestep), text)

    def with_generator(self, rng: str | None) -> "Program":
        """The program with all noise from the generator of that name in `GENERATORS`; None: as it is."""
        return self if rng is None else replace(self, start_noise=GENERATORS[rng], noise_on_the_way=None)

    def check(self, sampler: Sampler) -> str | None:
        """Raise UserError for a sampler that the program lacks; a sentence about one that is different there."""
        if sampler.name in self.lacks:
            raise UserError(f"{self.name} has no sampler {sampler.label}: take another one, or another --like")
        why = self.differs.get(sampler.name)
        return why and f"with {sampler.label} the picture is not {self.name}'s, only of its kind: {why}"
