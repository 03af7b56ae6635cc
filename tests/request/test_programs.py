"""Profiles: A1111's and ComfyUI's pictures, written out with k-diffusion's own functions, and what a profile changes.

diffusers' pictures are in test_stable_diffusion_oracle.
"""

import copy
import importlib
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diafano.errors import UserError
from diafano.noise.philox import Philox
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.noise.sources import cpu, gpu
from diafano.request.programs import a1111
from diafano.request.programs.comfyui import comfyui_grid
from diafano.request.programs.table import PROGRAMS, find_program
from diafano.sampling.samplers.table import SAMPLERS, find_sampler
from diafano.sampling.sigmas import SCHEDULES
from diafano.stable_diffusion import StableDiffusion
from helpers import told

PROMPT, NEGATIVE, GUIDANCE, SEED = "two bananas", "a cat", 5.0, 7
SHAPE = (4, 8, 8)
V1 = NoiseSchedule(ScheduleConfig(final_sigma="first"))


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    """`tiny_model` with v1's noise and weights that answer: fresh ones hardly hear noise or text."""
    unet = copy.deepcopy(tiny_model.unet)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in unet.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter) * max(parameter.shape[-1], 8) ** -0.5)
    return StableDiffusion(**{**vars(tiny_model), "unet": unet, "schedule": V1})


def final_latents(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Tensor:
    """What is handed to the decoder."""
    seen = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda latent, *how: (seen.append(latent), decode(latent, *how))[1])
    model.draw(model.request(PROMPT, negative=NEGATIVE, guidance=GUIDANCE, seed=SEED, **settings))
    return torch.cat(seen)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.std() > 0.1
    assert float((found - expected).abs().max()) <= 1e-3 * float(expected.abs().max())


def network(model: StableDiffusion, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """``eps(x, t)`` with guidance, t being (count,)."""
    with torch.inference_mode():
        texts = model.encode_text([NEGATIVE, PROMPT])

    def eps(x: Tensor, t: Tensor, **_: object) -> Tensor:
        with torch.inference_mode():
            text = texts.repeat_interleave(count, dim=0)
            without, towards = model.unet(torch.cat([x, x]), torch.cat([t, t]).float(), text).chunk(2)
        return without + GUIDANCE * (towards - without)

    return eps


def k_denoiser(k_diffusion: Any, model: StableDiffusion, count: int, quantize: bool) -> Any:
    return k_diffusion.external.DiscreteEpsDDPMDenoiser(
        network(model, count), V1.alphas_cumprod.float(), quantize=quantize
    )


# ---- A1111


@pytest.mark.parametrize(
    ("sampler", "schedule", "function", "grid"),
    [
        ("Euler", None, "sample_euler", "get_sigmas"),
        ("Euler a", None, "sample_euler_ancestral", "get_sigmas"),
        ("DPM++ 2M", None, "sample_dpmpp_2m", "karras"),
        ("DPM++ 2M", "Uniform", "sample_dpmpp_2m", "get_sigmas"),
        ("DPM++ 2S a", "Exponential", "sample_dpmpp_2s_ancestral", "exponential"),
        ("DPM2", None, "sample_dpm_2", "karras"),
        ("LMS", None, "sample_lms", "get_sigmas"),
    ],
)
def test_a1111_on_sigmas(
    k_diffusion: Any,
    model: StableDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    schedule: str | None,
    function: str,
    grid: str,
) -> None:
    """KDiffusionSampler.sample: sigma * noise, a generator a picture, fractional timesteps."""
    sampling, steps = k_diffusion.sampling, 8
    wrapped = k_denoiser(k_diffusion, model, 2, quantize=False)
    longer = steps + (sampler == "DPM2")
    ends = {"sigma_min": float(wrapped.sigmas[0]), "sigma_max": float(wrapped.sigmas[-1])}
    sigmas = (
        wrapped.get_sigmas(longer) if grid == "get_sigmas" else getattr(sampling, f"get_sigmas_{grid}")(longer, **ends)
    )
    if sampler == "DPM2":
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    generators = [Philox(SEED), Philox(SEED + 1)]
    noise: Any = lambda *_: torch.stack([generator.normal(SHAPE) for generator in generators])  # noqa: E731
    arguments = {"noise_sampler": noise} if find_sampler(sampler).stochastic else {}
    x = noise() * sigmas[0]
    expected = getattr(sampling, function)(wrapped, x, sigmas, disable=True, **arguments)
    found = final_latents(model, monkeypatch, steps=steps, sampler=sampler, schedule=schedule, like="a1111", count=2)
    assert_same(found, expected)


@pytest.mark.parametrize(("steps", "evaluations"), [(10, 9), (30, 30)])
def test_a1111_on_timesteps(
    model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, steps: int, evaluations: int
) -> None:
    """DDIM in its own notation, on every (1000 // steps)-th timestep from 1 on, the first one being where it ends."""
    eps, alphas = network(model, 1), V1.alphas_cumprod
    timesteps = list(range(1, 1000, 1000 // steps))
    x = Philox(SEED).normal((1, *SHAPE))
    for now, after in pairwise(reversed(timesteps)):
        noise = eps(x, torch.tensor([now]))
        clean = (x - math.sqrt(1 - alphas[now]) * noise) / math.sqrt(alphas[now])
        x = math.sqrt(alphas[after]) * clean + math.sqrt(1 - alphas[after]) * noise
    assert_same(final_latents(model, monkeypatch, steps=steps, sampler="DDIM", like="a1111"), x)
    assert len(timesteps) - 1 == evaluations


def test_a1111_with_its_rng_on_the_cpu(model: StableDiffusion) -> None:
    start = model.noise(model.plan(model.request("a fox", like="a1111", seed=3, rng="CPU")).passes[0], range(1))
    assert torch.equal(start()[0], torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(3))[0])


SDE = [
    ("DPM++ SDE", "sample_dpmpp_sde"),
    ("DPM++ 2M SDE", "sample_dpmpp_2m_sde"),
    ("DPM++ 3M SDE", "sample_dpmpp_3m_sde"),
]


def with_trees(k_diffusion: Any, monkeypatch: pytest.MonkeyPatch, generator: Callable[[int], Any]) -> Any:
    """k-diffusion's `sampling` with torchsde's Brownian trees, which draw their numbers from ``generator(seed)``."""
    torchsde = pytest.importorskip("torchsde")
    interval = importlib.import_module("torchsde._brownian.brownian_interval")
    monkeypatch.setattr(interval, "_randn", lambda size, dtype, device, seed: generator(int(seed))(size))
    monkeypatch.setattr(k_diffusion.sampling, "torchsde", torchsde)
    return k_diffusion.sampling


@pytest.mark.filterwarnings("ignore:Should have t[ab]")  # torchsde about the rounding of the ends
@pytest.mark.parametrize(("sampler", "function"), SDE)
def test_a1111_sde(
    k_diffusion: Any, model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, sampler: str, function: str
) -> None:
    """create_noise_sampler: a tree a picture, of its own seed, whose numbers are the GPU's."""
    sampling, steps = with_trees(k_diffusion, monkeypatch, gpu), 8
    wrapped = k_denoiser(k_diffusion, model, 2, quantize=False)
    sigmas = sampling.get_sigmas_karras(steps, float(wrapped.sigmas[0]), float(wrapped.sigmas[-1]))
    start = torch.stack([Philox(seed).normal(SHAPE) for seed in (SEED, SEED + 1)]) * sigmas[0]
    tree = sampling.BrownianTreeNoiseSampler(start, sigmas[:-1].min(), sigmas.max(), seed=[SEED, SEED + 1])
    expected = getattr(sampling, function)(wrapped, start, sigmas, disable=True, noise_sampler=tree)
    if "3M" in sampler:  # which leaves out a step of its grid
        monkeypatch.setattr(a1111, "A1111_DISCARDS", ())
    settings: dict[str, Any] = dict(steps=steps, sampler=sampler, schedule="karras", like="a1111")
    assert_same(final_latents(model, monkeypatch, count=2, **settings), expected)


# ---- ComfyUI


@pytest.mark.parametrize(
    ("sampler", "schedule", "function"),
    [
        ("euler", None, "sample_euler"),
        ("ddim", "normal", "sample_euler"),
        ("dpmpp_2m", "karras", "sample_dpmpp_2m"),
        ("euler_ancestral", "normal", "sample_euler_ancestral"),
    ],
)
def test_comfyui(
    k_diffusion: Any,
    model: StableDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    schedule: str | None,
    function: str,
) -> None:
    """KSampler: one generator for the batch, pure noise first, whole timesteps; on the way noise from the GPU."""
    steps, count = 8, 3
    wrapped = k_denoiser(k_diffusion, model, count, quantize=True)
    ends = {"sigma_min": float(wrapped.sigmas[0]), "sigma_max": float(wrapped.sigmas[-1])}
    sigmas = wrapped.get_sigmas(steps)
    if schedule == "karras":
        sigmas = k_diffusion.sampling.get_sigmas_karras(steps, **ends)
    gpu = Philox(SEED)
    arguments = {"noise_sampler": lambda *_: gpu.normal((count, *SHAPE))} if "ancestral" in sampler else {}
    x = torch.randn((count, *SHAPE), generator=torch.manual_seed(SEED)) * torch.sqrt(1 + sigmas[0] ** 2)
    expected = getattr(k_diffusion.sampling, function)(wrapped, x, sigmas, disable=True, **arguments)
    settings: dict[str, Any] = dict(steps=steps, sampler=sampler, schedule=schedule, like="comfyui")
    assert_same(final_latents(model, monkeypatch, count=count, **settings), expected)
    alone = final_latents(model, monkeypatch, batch_size=count, batch_position=1, **settings)
    assert_same(alone, expected[1:2])


@pytest.mark.filterwarnings("ignore:Should have t[ab]")
@pytest.mark.parametrize(("sampler", "function"), SDE)
def test_comfyui_sde(
    k_diffusion: Any, model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, sampler: str, function: str
) -> None:
    """One tree for the whole batch, of the seed itself, on the CPU."""
    sampling, steps, count = with_trees(k_diffusion, monkeypatch, cpu), 8, 3
    wrapped = k_denoiser(k_diffusion, model, count, quantize=True)
    sigmas = sampling.get_sigmas_karras(steps, float(wrapped.sigmas[0]), float(wrapped.sigmas[-1]))
    start = torch.randn((count, *SHAPE), generator=torch.manual_seed(SEED)) * torch.sqrt(1 + sigmas[0] ** 2)
    tree = sampling.BrownianTreeNoiseSampler(start, sigmas[:-1].min(), sigmas.max(), seed=SEED)
    expected = getattr(sampling, function)(wrapped, start, sigmas, disable=True, noise_sampler=tree)
    settings: dict[str, Any] = dict(steps=steps, sampler=sampler, schedule="karras", like="comfyui")
    assert_same(final_latents(model, monkeypatch, count=count, **settings), expected)
    alone = final_latents(model, monkeypatch, batch_size=count, batch_position=1, **settings)
    assert_same(alone, expected[1:2])


def test_comfyuis_own_grids() -> None:
    """Its beta schedule takes quantiles of timesteps; a remainder of ddim_uniform makes steps of its own."""
    euler = find_sampler("euler")
    beta = comfyui_grid(euler, "beta", V1, 4)
    stats = pytest.importorskip("scipy.stats")
    assert [V1.timestep_of(sigma) for sigma in beta[:-1]] == pytest.approx(
        np.rint(stats.beta.ppf([1.0, 0.75, 0.5, 0.25], 0.6, 0.6) * 999).tolist()
    )
    assert len(comfyui_grid(euler, "ddim_uniform", V1, 30)) == 32
    assert comfyui_grid(euler, "uniform", V1, 9) == SCHEDULES["normal"].function(V1, 9)


# ---- what a profile is


def test_complaint_same_settings_differ_between_programs(model: StableDiffusion) -> None:
    """They do, and each of the pictures can be asked for, and is told apart by what it carries."""
    pictures = {like: model.generate("a fox", seed=1, sampler="DPM++ 2M", like=like)[0] for like in (None, *PROGRAMS)}
    pixels = [np.asarray(picture) for picture in pictures.values()]
    assert all((one != other).any() for index, one in enumerate(pixels) for other in pixels[:index])
    for like, picture in pictures.items():
        assert (f"Like: {like}" in picture.info["parameters"]) == (like is not None)


def test_without_a_profile_nothing_changes(model: StableDiffusion) -> None:
    request = model.request("a fox", seed=3, count=2)
    first, second = model.noise(model.plan(request).passes[0], range(2))()
    for noise, seed in ((first, 3), (second, 4)):
        assert torch.equal(noise, torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(seed))[0])
    assert "Like" not in model.draw(request)[0].info["parameters"]


@given(
    name=st.sampled_from(sorted(PROGRAMS)),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(2, 1000),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
)
def test_every_grid_falls(name: str, sampler: str, schedule: str, steps: int, spacing: Any) -> None:
    trained = NoiseSchedule(ScheduleConfig(spacing=spacing, final_sigma="first"))
    sigmas = PROGRAMS[name].grid(SAMPLERS[sampler], schedule, trained, steps)
    assert len(sigmas) >= 2 and sigmas[-1] >= 0.0
    assert all(after < before for before, after in pairwise(sigmas))


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_a_picture_gets_its_noise_whatever_is_drawn_beside_it(name: str) -> None:
    def calls(places: range) -> Iterator[Tensor]:
        source = PROGRAMS[name].noise(5, 6).draws(places, (2, 4))
        return (source() for _ in range(3))

    for whole, part in zip(calls(range(6)), calls(range(2, 4)), strict=True):
        assert torch.equal(whole[2:4], part)
    noises = torch.stack(list(calls(range(6))))
    assert len({tuple(row.tolist()) for row in noises.flatten(0, 1).flatten(1)}) == 18  # each draw is new


def test_names() -> None:
    assert find_program(" ComfyUI ").name == "comfyui"
    assert find_program(None).start_noise is cpu
    with pytest.raises(UserError, match="use one of diffusers, a1111, comfyui"):
        find_program("novelai")


def test_what_a_program_lacks_is_refused_and_what_it_does_otherwise_is_said(model: StableDiffusion) -> None:
    with pytest.raises(UserError, match="comfyui has no sampler PLMS"):
        model.request("a fox", sampler="PLMS", like="comfyui")
    with told("DPM\\+\\+ SDE the picture is not diffusers's.*no seed fixes"):
        model.request("a fox", sampler="DPM++ SDE", like="diffusers")
    with pytest.raises(UserError, match="no step at all"):
        model.generate("a fox", sampler="DDIM", like="a1111", steps=1)


def test_automatic_is_the_programs(model: StableDiffusion) -> None:
    found = {name: model.request("a fox", sampler="DPM++ 2M", like=name).schedule for name in PROGRAMS}
    assert found == {"diffusers": "uniform", "a1111": "karras", "comfyui": "normal"}
    assert model.request("a fox", sampler="DPM++ 2M", like="comfyui", schedule="karras").schedule == "karras"


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_guidance_below_1_is_the_prompt_alone_for_diffusers(model: StableDiffusion, guidance: float) -> None:
    """`StableDiffusionPipeline.do_classifier_free_guidance`; here, and for the others, it leads on to the negative."""

    def draw(like: str | None, guidance: float) -> Tensor:
        said: Any = {"negative": NEGATIVE, "seed": SEED, "steps": 3, "like": like, "guidance": guidance}
        return torch.from_numpy(np.asarray(model.generate(PROMPT, **said)[0]).astype(np.float32))

    assert torch.equal(draw("diffusers", guidance), draw("diffusers", 1.0))
    with told("leads away from the prompt"):
        assert not torch.equal(draw(None, guidance), draw(None, 1.0))
