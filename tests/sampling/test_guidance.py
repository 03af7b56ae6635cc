"""Guidance that changes on the way, is kept to an interval of the steps, and is rescaled."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diafano.errors import UserError
from diafano.networks.conditioning import Conditioning
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.sampling.clock import Clock
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.guidance import classifier_free_guidance, guidance_of_steps, rescaled
from diafano.sampling.prompts import StepGuidance, StepPrompts
from diafano.stable_diffusion import StableDiffusion

NUMBER = st.floats(0, 100)


@pytest.mark.parametrize(
    ("guidance", "interval", "steps", "expected"),
    [
        (7.5, None, 3, [7.5, 7.5, 7.5]),
        ((7, 3), None, 5, [7, 6, 5, 4, 3]),
        ((1, 5, 1), None, 5, [1, 3, 5, 3, 1]),
        ((9, 8, 2, 4), None, 4, [9, 8, 2, 4]),
        ((7, 3), None, 1, [7]),
        (4.0, (0.2, 0.8), 10, [1, 1, 4, 4, 4, 4, 4, 4, 1, 1]),
        (4.0, (0.0, 0.5), 3, [4, 4, 1]),
        ((7, 3), (0.4, 1.0), 5, [1, 1, 5, 4, 3]),
        (4.0, None, 0, []),
    ],
)
def test_guidance_of_each_step(guidance: Any, interval: Any, steps: int, expected: list[float]) -> None:
    assert guidance_of_steps(guidance, interval, steps) == pytest.approx(expected)


@given(st.lists(NUMBER, min_size=1, max_size=6), st.integers(1, 60))
def test_a_line_stays_between_its_numbers(knots: list[float], steps: int) -> None:
    found = guidance_of_steps(knots, None, steps)
    assert len(found) == steps and found[0] == knots[0]
    assert all(min(knots) - 1e-9 <= one <= max(knots) + 1e-9 for one in found)
    if steps > 1:
        assert found[-1] == pytest.approx(knots[-1])


@given(st.integers(1, 200), st.integers(0, 199))
def test_shares_meet_steps_exactly(steps: int, first: int) -> None:
    first = first % steps
    found = guidance_of_steps(2.0, (first / steps, 1.0), steps)
    assert found == [1.0] * first + [2.0] * (steps - first)


# ---- what the network is asked


class Counting:
    """A network that remembers its batches and answers with the text's mean."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, latent: Tensor, timestep: Tensor, text: Conditioning) -> Tensor:
        self.batches.append(len(latent))
        return text.tokens.mean(dim=(1, 2))[:, None, None, None] * latent


def test_outside_the_interval_the_network_is_asked_once() -> None:
    network = Counting()
    run = [StepPrompts(((Conditioning(torch.ones(1, 77, 8)), 1.0),), Conditioning(torch.zeros(1, 77, 8)))] * 5
    clock = Clock()
    guide = StepGuidance(run, Denoiser(network, NoiseSchedule()), guidance_of_steps(3.0, (0.2, 0.6), 5), 2, clock=clock)
    for clock.step in range(5):
        guide(torch.ones(2, 4, 2, 2), 1.0)
    assert network.batches == [2, 4, 4, 2, 2]


def test_plain_guidance_stays_the_default(tiny_model: StableDiffusion) -> None:
    def drawn(**settings: Any) -> bytes:
        return tiny_model.generate("a penguin", seed=1, **settings)[0].tobytes()

    plain = drawn(guidance=3.0)
    assert plain == drawn(guidance="3:3") == drawn(guidance=[3, 3, 3], guidance_interval="0,1", guidance_rescale=0.0)
    assert plain != drawn(guidance="3:1") != drawn(guidance=3.0, guidance_interval="0.5,1")
    assert drawn(guidance=1.0) == drawn(guidance=3.0, guidance_interval="0.9,1"), "of 4 steps none is in it"
    assert plain != drawn(guidance=3.0, guidance_rescale=0.7)
    assert drawn(guidance=1.0) == drawn(guidance=1.0, guidance_rescale=0.7)


# ---- rescaled


@pytest.mark.parametrize("prediction", ["noise", "v", "clean"])
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_prediction_and_clean_are_each_others_inverse(prediction: Any, sigma: float) -> None:
    denoiser = Denoiser(Counting(), NoiseSchedule(ScheduleConfig(prediction=prediction)))
    x, said = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denoiser.process.prediction(x, sigma, denoiser.process.clean(x, sigma, said)), said)


@pytest.mark.parametrize("prediction", ["noise", "v"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rescaling_is_diffusers(prediction: Any, share: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
    denoiser = Denoiser(Counting(), NoiseSchedule(ScheduleConfig(prediction=prediction)))
    x, text, cfg = torch.randn(3, 2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cfg = 5 * cfg + 1
    clean = [denoiser.process.clean(x, 2.0, said) for said in (cfg, text, rescale_noise_cfg(cfg, text, share))]
    torch.testing.assert_close(rescaled(denoiser.process, x, 2.0, clean[0], clean[1], share), clean[2])


def test_each_picture_gets_its_own_spread_back() -> None:
    network, rows = Counting(), torch.randn(2, 77, 8, generator=torch.Generator().manual_seed(1))
    denoiser = Denoiser(network, NoiseSchedule())
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = classifier_free_guidance(denoiser, rows + 1, rows, 1.0)(x, 3.0, 7.5)
    for one in range(2):
        alone = classifier_free_guidance(denoiser, rows[one : one + 1] + 1, rows[one : one + 1], 1.0)(
            x[one : one + 1], 3.0, 7.5
        )
        torch.testing.assert_close(alone, whole[one : one + 1])
        asked = denoiser.process.prediction(x[one], 3.0, denoiser(x, 3.0, rows + 1)[one])
        torch.testing.assert_close(denoiser.process.prediction(x[one], 3.0, whole[one]).std(), asked.std())


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 7.5])
def test_texts_of_other_lengths_are_guided_alike(guidance: float, rescale: float) -> None:
    """Repeated tokens mean the same to attention, and to the mean; the two ways to guide have to agree."""
    denoiser = Denoiser(Counting(), NoiseSchedule())
    positive, negative = torch.randn(2, 77, 8, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def clean(*texts: tuple[Tensor, float]) -> Tensor:
        told = tuple((Conditioning(text[None]), weight) for text, weight in texts)
        return StepPrompts(told, Conditioning(negative[None])).guide(denoiser, 2, rescale)(x, 2.0, guidance)

    expected = clean((positive, 1.0))
    torch.testing.assert_close(clean((positive.repeat(2, 1), 1.0)), expected)
    torch.testing.assert_close(clean((positive, 0.5), (positive, 0.5)), expected)
    torch.testing.assert_close(clean((positive, 3.0), (positive, -2.0)), expected, rtol=1e-4, atol=1e-4)


# ---- the request


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance": "7:x"}, {"guidance": ""}, {"guidance": []}, {"guidance": [7, -1]}, {"guidance": "7:101"},
        {"guidance": True}, {"guidance": {"7": 3}}, {"guidance": "nan"}, {"guidance_interval": "0.2"},
        {"guidance_interval": "0.5,0.5"}, {"guidance_interval": (0.0, 1.1)}, {"guidance_interval": 0.5},
        {"guidance_interval": "a,b"}, {"guidance_rescale": -0.1}, {"guidance_rescale": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_one_sentence(tiny_model: StableDiffusion, wrong: dict[str, Any]) -> None:
    ((name, _),) = wrong.items()
    with pytest.raises(UserError, match=rf"^{name} .* is not possible: give ") as error:
        tiny_model.request("a fox", **wrong)
    assert "\n" not in str(error.value)


def test_falling_guidance_is_recorded_for_other_programs_too(tiny_model: StableDiffusion) -> None:
    drawn = tiny_model.generate("a fox", seed=1, guidance="7.5:3")[0]
    text = drawn.info["parameters"]
    assert "CFG scale: 7.5, Seed: 1" in text and 'Guidance schedule: "7.5:3"' in text
    assert np.asarray(drawn).shape == (64, 64, 3)
