"""Whole runs of every sampler against diffusers' schedulers, with one network and the same noise.

Where diffusers departs from its own papers or from k-diffusion, the test says so and avoids it:

- DDIMScheduler steps from t to ``t - 1000 // steps``, which in the "linspace" and "trailing" spacings is not always the
  next timestep of the run. Where it is (every step of 1000 in "linspace"; "trailing" where steps divide 1000), it is
  the oracle; elsewhere DDIM's equation 12, written out below, is.
- DDPMScheduler always ends at alpha 1, DDIMScheduler where ``set_alpha_to_one`` says.
- EulerDiscrete, EulerAncestralDiscrete and HeunDiscrete do not round the timesteps of "linspace": they get the others.
- DPMSolverMultistep picks its own timesteps (of steps + 1 the first): it is handed ours. With Karras sigmas it rounds
  the timestep that the network sees: there the network does not look at it.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.samplers.table import ddim, ddpm, dpmpp_2m, euler, euler_ancestral, heun
from diafano.sampling.sigmas import karras_sigmas, uniform_sigmas, uniform_timesteps

# numpy 2 about diffusers' np.array(tensor)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PREDICTIONS = {"noise": "epsilon", "v": "v_prediction"}
SPACINGS = ["leading", "trailing", "linspace"]
TEXT = torch.zeros(2, 1, 1, dtype=torch.float64)
MIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 3


def draws(seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)


START = next(draws(1))


def network(latent: Tensor, timestep: Tensor, text: object) -> Tensor:
    """A smooth stand-in that mixes channels and depends on the timestep."""
    mixed = torch.einsum("oc,bchw->bohw", MIX, latent)
    return 0.8 * torch.tanh(latent + mixed) + 0.3 * torch.sin(timestep.double() / 150).reshape(-1, 1, 1, 1)


def timeless(latent: Tensor, timestep: Tensor, text: object) -> Tensor:
    return network(latent, torch.zeros(2), text)


def ask(net: Callable[..., Tensor], latent: Tensor, timestep: Any) -> Tensor:
    return net(latent, torch.full((2,), float(timestep)), TEXT)


def schedule_for(prediction: str, spacing: str = "leading", **fields: Any) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig.model_validate({"prediction": prediction, "spacing": spacing, **fields}))


def oracle(kind: type, prediction: str, spacing: str = "leading", **fields: Any) -> Any:
    known = inspect.signature(kind).parameters
    if "clip_sample" in known:
        fields["clip_sample"] = False
    return kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        steps_offset=1,
        **fields,
    )


def assert_same_run(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def run_ddim(schedule: NoiseSchedule, steps: int, eta: float) -> Tensor:
    sigmas = uniform_sigmas(schedule, steps)
    noise = draws(2)
    denoiser = Denoiser(network, schedule)
    end = ddim(
        lambda x, sigma: denoiser(x, sigma, TEXT),
        schedule.start(START, sigmas[0]),
        sigmas,
        eta=eta,
        noise_source=lambda: next(noise),
    )
    return schedule.finish(end, sigmas[-1])


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("leading", 20), ("leading", 30), ("leading", 50), ("trailing", 20), ("linspace", 1000)]
)
def test_ddim(spacing: str, steps: int, to_one: bool, prediction: str, eta: float) -> None:
    schedule = schedule_for(prediction, spacing, final_sigma="zero" if to_one else "first")
    scheduler = oracle(DDIMScheduler, prediction, spacing, set_alpha_to_one=to_one)
    if steps == 1000:  # the float32 rounding of its alphas adds up over so many steps to more than 1e-5
        scheduler.alphas_cumprod = schedule.alphas_cumprod
        scheduler.final_alpha_cumprod = torch.tensor(1.0) if to_one else schedule.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    latent, noise = START, draws(2)
    for timestep in scheduler.timesteps:
        variance_noise = next(noise) if eta > 0 else None
        prediction_now = ask(network, latent, timestep)
        latent = scheduler.step(prediction_now, timestep, latent, eta=eta, variance_noise=variance_noise).prev_sample
    assert_same_run(run_ddim(schedule, steps, eta), latent)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_against_the_paper(spacing: str, final_sigma: str, prediction: str, eta: float) -> None:
    """Song et al. 2020, equations 12 and 16 in their own notation, on the run's own timesteps."""
    schedule = schedule_for(prediction, spacing, final_sigma=final_sigma)
    timesteps = uniform_timesteps(schedule, 23)
    alphas = [float(schedule.alphas_cumprod[t]) for t in timesteps]
    alphas.append(1.0 if final_sigma == "zero" else float(schedule.alphas_cumprod[0]))
    latent, noise = START, draws(2)
    for step, timestep in enumerate(timesteps):
        now, after = alphas[step], alphas[step + 1]
        output = ask(network, latent, timestep)
        epsilon = output if prediction == "noise" else math.sqrt(now) * output + math.sqrt(1 - now) * latent
        predicted = (latent - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
        fresh = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        latent = math.sqrt(after) * predicted + math.sqrt(max(0.0, 1 - after - fresh**2)) * epsilon
        if fresh > 0:
            latent = latent + fresh * next(noise)
    found = run_ddim(schedule, 23, eta)
    torch.testing.assert_close(found, latent, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddpm(spacing: str, prediction: str) -> None:
    scheduler = oracle(DDPMScheduler, prediction, spacing)
    scheduler.set_timesteps(25)
    latent, generator = START, torch.Generator().manual_seed(2)
    for timestep in scheduler.timesteps:
        latent = scheduler.step(ask(network, latent, timestep), timestep, latent, generator=generator).prev_sample

    schedule = schedule_for(prediction, spacing)
    sigmas = uniform_sigmas(schedule, 25)
    denoiser, noise = Denoiser(network, schedule), draws(2)
    start = schedule.start(START, sigmas[0])
    found = ddpm(lambda x, sigma: denoiser(x, sigma, TEXT), start, sigmas, noise_source=lambda: next(noise))
    assert_same_run(found, latent)


def run_exploding(scheduler: Any, timesteps: Tensor, net: Callable[..., Tensor], **arguments: Any) -> Tensor:
    """A diffusers scheduler that itself works in x = clean + sigma * noise."""
    latent = START * math.sqrt(1 + float(scheduler.sigmas[0]) ** 2)
    for timestep in timesteps:
        output = ask(net, scheduler.scale_model_input(latent, timestep), timestep)
        latent = scheduler.step(output, timestep, latent, **arguments).prev_sample
    return latent


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(
    ("sampler", "kind", "karras"),
    [
        (euler, EulerDiscreteScheduler, False),
        (euler, EulerDiscreteScheduler, True),
        (euler_ancestral, EulerAncestralDiscreteScheduler, False),  # diffusers has no Karras sigmas for it
        (heun, HeunDiscreteScheduler, False),
        (heun, HeunDiscreteScheduler, True),
    ],
)
def test_euler_ancestral_and_heun(sampler: Any, kind: type, karras: bool, spacing: str, prediction: str) -> None:
    fields = {"use_karras_sigmas": True} if karras else {}
    scheduler = oracle(kind, prediction, spacing, **fields)
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas.tolist()
    if kind is HeunDiscreteScheduler:  # it lists the inner sigmas twice, once for each evaluation
        sigmas = [sigmas[0], *sigmas[1:-1:2], sigmas[-1]]
    arguments = {"generator": torch.Generator().manual_seed(2)} if sampler is euler_ancestral else {}
    expected = run_exploding(scheduler, scheduler.timesteps, network, **arguments)

    schedule = schedule_for(prediction, spacing)
    if not karras:
        assert sigmas == pytest.approx(uniform_sigmas(schedule, 20), rel=1e-5)
        sigmas = uniform_sigmas(schedule, 20)
    denoiser, noise = Denoiser(network, schedule), draws(2)
    start = schedule.start(START, sigmas[0])
    found = sampler(lambda x, sigma: denoiser(x, sigma, TEXT), start, sigmas, noise_source=lambda: next(noise))
    assert_same_run(found, expected)


def test_euler_with_zero_terminal_snr() -> None:
    """From sigma 4096; diffusers' DDIM starts such a run at alpha 0 instead, 2e-4 of the noise away."""
    scheduler = oracle(EulerDiscreteScheduler, "v", "trailing", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(20)
    expected = run_exploding(scheduler, scheduler.timesteps, network)
    schedule = schedule_for("v", "trailing", zero_terminal_snr=True)
    sigmas = uniform_sigmas(schedule, 20)
    denoiser = Denoiser(network, schedule)
    found = euler(lambda x, sigma: denoiser(x, sigma, TEXT), schedule.start(START, sigmas[0]), sigmas)
    assert_same_run(found, expected)


@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dpmpp_2m_on_uniform_sigmas(prediction: str, steps: int, final_sigma: str) -> None:
    schedule = schedule_for(prediction, final_sigma=final_sigma)
    scheduler = oracle(
        DPMSolverMultistepScheduler,
        prediction,
        final_sigmas_type="zero" if final_sigma == "zero" else "sigma_min",
        lower_order_final=False,  # k-diffusion has no such rule; the step to sigma 0 is first order all the same
    )
    scheduler.set_timesteps(timesteps=uniform_timesteps(schedule, steps))
    latent = START
    for timestep in scheduler.timesteps:
        latent = scheduler.step(ask(network, latent, timestep), timestep, latent).prev_sample

    sigmas = uniform_sigmas(schedule, steps)
    denoiser = Denoiser(network, schedule)
    end = dpmpp_2m(lambda x, sigma: denoiser(x, sigma, TEXT), schedule.start(START, sigmas[0]), sigmas)
    assert_same_run(schedule.finish(end, sigmas[-1]), latent)


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dpmpp_2m_on_karras_sigmas(prediction: str, lower_order_final: bool) -> None:
    scheduler = oracle(
        DPMSolverMultistepScheduler, prediction, use_karras_sigmas=True, lower_order_final=lower_order_final
    )
    scheduler.set_timesteps(10)
    latent = START
    for timestep in scheduler.timesteps:
        latent = scheduler.step(ask(timeless, latent, timestep), timestep, latent).prev_sample

    schedule = schedule_for(prediction)
    sigmas = karras_sigmas(schedule, 10)
    denoiser = Denoiser(timeless, schedule)
    found = dpmpp_2m(lambda x, sigma: denoiser(x, sigma, TEXT), schedule.start(START, sigmas[0]), sigmas)
    assert_same_run(found, latent)
