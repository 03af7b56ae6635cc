"""What the UNet is told step by step, and how several texts guide."""

import pytest
import torch
from torch import Tensor

from diafano.networks.conditioning import Conditioning
from diafano.noise.schedule import NoiseSchedule
from diafano.sampling.clock import Clock
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.prompts import StepGuidance, prompts_of_steps
from diafano.stable_diffusion import Request, StableDiffusion

SCHEDULE = NoiseSchedule()


def embed(text: str) -> Conditioning:
    """One token for each word, its length in it."""
    return Conditioning(torch.tensor([[[float(len(word))] for word in text.split()] or [[0.0]]]))


def network(latent: Tensor, timestep: Tensor, text: Conditioning) -> Tensor:
    """ "Noise" that tells which text was given."""
    return text.tokens.mean(dim=1)[:, :, None, None].expand_as(latent)


def noise_at(prompt: str, negative: str, step: int, *, steps: int = 4, guidance: float = 2.0) -> float:
    run = prompts_of_steps(prompt, negative, steps, embed)
    guide = StepGuidance(run, Denoiser(network, SCHEDULE), [guidance] * steps, 2, clock=Clock(step))
    x = torch.zeros(2, 1, 1, 1)
    return float(-guide(x, 1.0)[0, 0, 0, 0])  # clean = x - sigma * noise


def test_plain_guidance() -> None:
    assert noise_at("aaaa", "a", 0) == pytest.approx(1 + 2 * (4 - 1))


def test_texts_of_different_lengths_guide_as_well() -> None:
    assert noise_at("aaaa aa", "a", 0) == pytest.approx(1 + 2 * (3 - 1))


def test_an_edit_takes_place_at_its_step() -> None:
    assert [noise_at("[a:aaa:0.5]", "", step, guidance=1.0) for step in range(5)] == [1, 1, 3, 3, 3]


def test_and_adds_its_weighted_directions() -> None:
    expected = 1 + 2 * ((4 - 1) * 1.0 + (2 - 1) * 0.5)
    assert noise_at("aaaa AND aa :0.5", "a", 0) == pytest.approx(expected)
    assert noise_at("aaaa AND aa :0.5", "a b", 0) == pytest.approx(expected)


def test_equal_texts_are_embedded_once() -> None:
    asked: list[str] = []

    def count(text: str) -> Conditioning:
        asked.append(text)
        return embed(text)

    prompts_of_steps("[a|b] AND a", "a", 50, count)
    assert sorted(asked) == [" a", "a", "b"]


def test_a_prompt_beyond_77_tokens_is_told_whole(tiny_model: StableDiffusion) -> None:
    plan = tiny_model.plan(tiny_model.request("1 " * 100, seed=1))
    (first, *_) = tiny_model.prompts_of(plan, plan.passes[0])
    assert first.positive[0][0].tokens.shape[1] == 2 * 77 and first.negative.tokens.shape[1] == 77
    (picture,) = tiny_model.generate("1 " * 100, seed=1)
    assert picture.size == (64, 64)


def test_brackets_are_words_for_diffusers(tiny_model: StableDiffusion) -> None:
    heavy, plain = (tiny_model.request(text, seed=1) for text in ("a (penguin:1.5)", "a penguin"))
    literal = heavy.model_copy(update={"like": "diffusers"})

    def first(request: Request) -> Tensor:
        plan = tiny_model.plan(request)
        return tiny_model.prompts_of(plan, plan.passes[0])[0].positive[0][0].tokens[0]

    assert not torch.allclose(first(heavy), first(plain))
    assert torch.equal(first(literal), tiny_model.encode_text(["a (penguin:1.5)"])[0])
