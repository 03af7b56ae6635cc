"""A run: from noise to a clean latent, by a network, what it is told, guidance and a sampler.

It knows no request, no model and no program: whoever has a network and the noise process that it was trained with can
run it, and watch it at every joint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from diafano.engine.fused import accelerated
from diafano.engine.precision import NanGuard
from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning, Network
from diafano.networks.unet import UNet
from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSource
from diafano.pictures.pixels import fit
from diafano.sampling.clock import Clock
from diafano.sampling.control import Control, Controlled
from diafano.sampling.deep_cache import DeepCache
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.init_image import InitImage
from diafano.sampling.prompts import StepGuidance, StepPrompts
from diafano.sampling.samplers.stepping import Denoise, SamplerFunction, StepInfo, with_options


@dataclass(frozen=True)
class RunPlan:
    """How a run goes, all names resolved."""

    sigmas: Sequence[float]
    """The falling noise levels, one more than steps; one alone is no step."""
    sampler: SamplerFunction
    guidance: Sequence[float]
    """Of each step."""
    options: Mapping[str, float] = field(default_factory=dict)
    """The sampler's own."""
    rescale: float = 0.0
    """See `guidance.rescaled`."""
    starts_at_sigma: bool = False
    """Whether the first latent is ``sigma * noise``; otherwise the network sees pure noise first."""
    from_noise: bool = True
    """Whether a run over a picture starts from noise alone: nothing of the picture stays but outside its mask."""
    timesteps: Callable[[Tensor], Tensor] | None = None
    """How the timesteps that the network sees are changed; None: they stay."""
    cache_interval: int = 1
    """The network's deep levels run in one of so many steps (`deep_cache`); 1: in all."""
    like_a1111: bool = False
    """See `Control.acts`."""

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


class OnStep(Protocol):
    """Called in each step; the two latents are (batch, 4, h, w), the noisy one being ``clean + sigma * noise``."""

    def __call__(self, step: int, sigma: float, noisy: Tensor, clean: Tensor, /) -> object: ...


@dataclass(frozen=True)
class Watchers:
    """Who is told of a run, joint by joint; what they raise ends it. Nothing is computed for one who is not there."""

    on_step: Callable[[StepInfo], object] | None = None
    """Once a step, before x moves on."""
    on_estimates: Callable[[Clock, float, Tensor, Tensor], object] | None = None
    """``(clock, sigma, without, towards)``: guidance's two clean estimates."""
    on_call: Callable[[Clock, Tensor, Tensor, Conditioning, Tensor], object] | None = None
    """``(clock, latent, timestep, conditioning, prediction)``: the network was asked, and answered."""

    def and_on_step(self, on_step: OnStep | None, before: int = 0) -> "Watchers":
        """Those, and one who is told of the steps of several runs, which count on from so many `before`."""
        if on_step is None:
            return self
        tell, told = on_step, self.on_step

        def both(info: StepInfo) -> None:
            if told is not None:
                told(info)
            tell(before + info.step, info.sigma, info.x, info.clean)

        return replace(self, on_step=both)


NOBODY = Watchers()


@dataclass(frozen=True)
class Surroundings:
    """What a network is given besides what it is told: pictures to draw over and to follow."""

    start: InitImage | None = None
    controls: Sequence[Control] = ()
    size: tuple[int, int] = (0, 0)
    """(width, height) that is drawn, in pixels: that of the controls' pictures where there is none to draw over."""
    model: str = "given"
    """Its name, for what is said of errors."""

    def beside(self, picture: Image.Image) -> Image.Image:
        """A control's picture, scaled and cut to what is drawn."""
        if self.start is None or self.start.picture is None:
            return fit(picture, *self.size)
        return self.start.beside(picture)


def run(
    network: Network,
    process: Process,
    plan: RunPlan,
    prompts: Sequence[StepPrompts],
    noise_source: NoiseSource,
    *,
    around: Surroundings | None = None,
    dtype: torch.dtype | None = None,
    watchers: Watchers = NOBODY,
    nan_guard: NanGuard | None = None,
) -> Tensor:
    """From noise at ``plan.sigmas[0]`` to clean latents (batch, channels, h, w), told in each step what `prompts` say.

    `process` is what the network was trained with, `dtype` what it computes in; the latent between its steps has the
    noise's format. The sampler draws further noise from `noise_source`.
    """
    around = Surroundings() if around is None else around
    start, noise, clock = around.start, noise_source(), Clock()
    if start is not None and plan.steps == 0:
        return start.noised(noise, 0.0)
    x = first_latent(process, plan, noise, start)
    fills = fills_in(network, noise.shape[1])
    asked = asked_in_turn(surrounded(network, plan, around, clock, fills=fills), plan, clock, watchers)
    denoiser = Denoiser(asked, process, dtype, nan_guard)
    on_estimates = None if watchers.on_estimates is None else partial(watchers.on_estimates, clock)
    guide = StepGuidance(
        prompts, denoiser, plan.guidance, len(noise), plan.rescale, clock=clock, on_estimates=on_estimates
    )
    denoise: Denoise = guide if start is None or fills else start.keep(guide)

    def after_step(info: StepInfo) -> None:
        clock.move_to(info.step + 1)
        if watchers.on_step is not None:
            watchers.on_step(info)

    sampler = with_options(plan.sampler, plan.options)
    with accelerated(*networks_of(network, around)):
        latent = sampler(denoise, x, plan.sigmas, noise_source=noise_source, on_step=after_step)
    return latent if plan.starts_at_sigma else process.finish(latent, plan.sigmas[-1])


def networks_of(network: Network, around: Surroundings) -> list[nn.Module]:
    """What is computed with in each step."""
    asked = (network, *(control.network for control in around.controls))
    return [one for one in asked if isinstance(one, nn.Module)]


def first_latent(process: Process, plan: RunPlan, noise: Tensor, start: InitImage | None = None) -> Tensor:
    """x at the run's first sigma, of the noise's shape: noise alone, or the picture's latent under noise."""
    sigma = plan.sigmas[0]
    if start is not None and not plan.from_noise:
        return start.noised(noise, sigma)
    return sigma * noise if plan.starts_at_sigma else process.start(noise, sigma)


def fills_in(network: object, latent_channels: int) -> bool:
    """Whether it is an inpainting model's, which sees mask and masked picture beside the latent."""
    return isinstance(network, UNet) and network.config.in_channels > latent_channels


def surrounded(network: Network, plan: RunPlan, around: Surroundings, clock: Clock, *, fills: bool) -> Network:
    """The network with controls, a cache, or the masked picture around it. Raises UserError for what does not fit."""
    inner = network
    if around.controls or plan.cache_interval > 1:
        if not isinstance(network, UNet):
            raise UserError("deep_cache and ControlNets are for UNets: this model has another network, leave them out")
        if around.controls and plan.cache_interval > 1:
            raise UserError("deep_cache and ControlNets do not go together: leave one of them out")
        inner = (
            Controlled(network, around.controls, around.beside, plan.steps, clock, like_a1111=plan.like_a1111)
            if around.controls
            else DeepCache(network, plan.cache_interval, clock)
        )
    if not fills:
        return inner
    if around.start is None or around.start.latent_mask is None:
        raise UserError(f"the model {around.model} fills in pictures: give an image and a mask")
    return around.start.inpainting(inner)


def asked_in_turn(network: Network, plan: RunPlan, clock: Clock, watchers: Watchers) -> Network:
    """The network whose calls are counted by the clock, told to a watcher, at the timesteps that the plan makes."""

    def asked(latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        timestep = timestep if plan.timesteps is None else plan.timesteps(timestep)
        prediction = network(latent, timestep, conditioning)
        if watchers.on_call is not None:
            watchers.on_call(clock, latent, timestep, conditioning, prediction)
        clock.call += 1
        return prediction

    return asked
