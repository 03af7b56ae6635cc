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
    guidance         as 1, the prompt alone   from the negative prompt (at 0) to the prompt (at 1), in all of them
    below 1
    CLIP skip        of the prompt alone      of both prompts           of both prompts           of both prompts

CLIP skip 1 is the last layer, 2 the one before, and the final norm is applied, in all of them; diffusers' own number
for it, `clip_skip`, is 1 less, ComfyUI's, `stop_at_clip_layer`, is negative.
All of them end at 0 but for DDIM and PLMS. Sources: diffusers 0.3x's schedulers; A1111 1.10's rng.py,
sd_samplers_kdiffusion.py, sd_samplers_timesteps_impl.py, sd_schedulers.py; ComfyUI's samplers.py, model_sampling.py.
The grids themselves are in `sampling.sigmas`; each program's file beside this says which of them it means.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from torch import Tensor

from diafano.errors import UserError
from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSchedule
from diafano.noise.sources import GENERATORS, Draw, cpu
from diafano.request.programs import grids
from diafano.sampling.noise import SeededNoise
from diafano.sampling.samplers.table import Sampler, SamplerFunction
from diafano.text_encoder.prompt_embedding import Weighting

OTHER_UNIPC = "it is another variant of UniPC there"
"""Said of A1111 and ComfyUI alike."""


class StrengthRuns(Enum):
    """Which steps are run over a picture of a strength."""

    SHARE = auto()
    """That share of the steps, rounded down."""
    SHARE_AND_ONE = auto()
    """One more, but for strengths 0 and 1."""
    OF_A_LONGER_RUN = auto()
    """As many as were asked for: the last ones of a run of ``steps / strength``."""


class PathSpan(Enum):
    """Between which sigmas a Brownian path leads."""

    WHOLE_RUN = auto()
    PART_THAT_IS_RUN = auto()


@dataclass(frozen=True)
class Program:
    """A column of the table above."""

    name: str
    start_noise: Callable[[int], Draw] = cpu
    noise_on_the_way: Callable[[int], Draw] | None = None
    """None: the generator of the start noise goes on."""
    one_generator_for_all: bool = False
    grid: grids.ProgramGrid = grids.diafano_grid
    """``grid(sampler, name of the schedule, trained schedule, steps)`` -> the falling sigmas of the run."""
    starts_at_sigma: Callable[[Sampler, Process, float], bool] = lambda sampler, process, sigma: False
    """Whether the first latent is ``sigma * noise``; otherwise the network sees pure noise first."""
    automatic: Callable[[Sampler], str] = lambda sampler: sampler.schedule
    whole_timesteps: Callable[[Sampler, str], Callable[[Tensor], Tensor] | None] = lambda sampler, schedule: None
    """How the timesteps that the network sees are made whole, given sampler and schedule; None: they stay."""
    skips_in_negative: bool = True
    """Whether CLIP skip goes for the negative prompt too."""
    guides_above_1: bool = False
    """Whether guidance below 1 is as 1, the prompt alone; otherwise it goes on, to the negative prompt alone at 0."""
    weighting: Weighting | None = "diafano"
    """How weights in a prompt are applied; None: a prompt has no syntax."""
    strength_runs: StrengthRuns = StrengthRuns.SHARE
    """What `part_of_run` runs of a picture's strength."""
    paths: PathSpan | None = None
    """Between which sigmas the noise of stochastic equations is a Brownian path; None: each draw stands alone."""
    functions_for_v: Mapping[str, SamplerFunction] = field(default_factory=dict)
    """Samplers that are run otherwise with models that predict v, and how."""
    second_pass_runs: StrengthRuns | None = None
    """The same of a second pass (`sampling.hires`); None: as of any picture."""
    lacks: frozenset[str] = frozenset()
    """Samplers that the program does not have."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """Samplers that it has, but that draw another picture here, and why."""

    def noise(
        self,
        seed: int,
        batch: int,
        variation: tuple[int, float] | None = None,
        path_sigmas: Sequence[float] | None = None,
    ) -> SeededNoise:
        """All noise of a batch of so many pictures; see `SeededNoise` for the last two."""
        return SeededNoise(
            seed,
            batch,
            self.start_noise,
            self.noise_on_the_way,
            one_for_all=self.one_generator_for_all,
            variation=variation,
            path_sigmas=path_sigmas,
        )

    def part_of_run(
        self, sampler: Sampler, name: str, process: Process, steps: int, strength: float, second: bool = False
    ) -> list[float]:
        """The falling sigmas of drawing over a picture; at strength 0 one sigma, which is no step.

        `second`: the picture is the first pass's.
        """
        runs = self.second_pass_runs if second and self.second_pass_runs is not None else self.strength_runs
        if runs is StrengthRuns.OF_A_LONGER_RUN and strength > 0:
            return self.grid(sampler, name, process, int(steps / strength))[-steps - 1 :]
        sigmas = self.grid(sampler, name, process, steps)
        run = int(strength * (len(sigmas) - 1))
        if runs is StrengthRuns.SHARE_AND_ONE and 0 < strength < 1:
            run += 1
        return sigmas[len(sigmas) - 1 - run :]

    def function(self, sampler: Sampler, process: Process) -> SamplerFunction:
        """What runs the sampler, to be called as `Sampler.function` is."""
        if not (isinstance(process, NoiseSchedule) and process.config.prediction == "v"):
            return sampler.function
        return self.functions_for_v.get(sampler.name, sampler.function)

    def with_generator(self, rng: str | None) -> "Program":
        """The program with all noise from the generator of that name in `GENERATORS`; None: as it is."""
        return self if rng is None else replace(self, start_noise=GENERATORS[rng], noise_on_the_way=None)

    def check(self, sampler: Sampler) -> str | None:
        """Raise UserError for a sampler that the program lacks; a sentence about one that is different there."""
        if sampler.name in self.lacks:
            raise UserError(f"{self.name} has no sampler {sampler.label}: take another one, or another --like")
        why = self.differs.get(sampler.name)
        return why and f"with {sampler.label} the picture is not {self.name}'s, only of its kind: {why}"
