"""On a GPU, where there is one: the same picture, no waiting between steps, and what compiling gives."""

import numpy as np
import pytest
import torch

import diafano

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]
PROMPT = "a penguin on a red background"


def test_the_same_picture_as_on_the_cpu() -> None:
    drawn = [diafano.load(device=device).generate(PROMPT, seed=3, steps=10)[0] for device in ("cpu", "cuda")]
    on_cpu, on_gpu = (np.asarray(picture).astype(int) for picture in drawn)
    assert np.abs(on_cpu - on_gpu).mean() < 1.0


@pytest.mark.parametrize("sampler", ["uni_pc", "euler_ancestral", "dpmpp_2m_sde"])
def test_no_step_waits_for_the_gpu(sampler: str) -> None:
    """torch itself raises at any operation that would."""
    model = diafano.load(device="cuda")
    model.generate(PROMPT, seed=3, steps=2, sampler=sampler)

    def watch(step: int, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("error" if step < 8 else "default")

    try:
        model.generate(PROMPT, seed=3, steps=10, sampler=sampler, on_step=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_a_compiled_model_draws_the_same_picture() -> None:
    usual = diafano.load(device="cuda").generate(PROMPT, seed=3, steps=10)[0]
    compiled = diafano.load(device="cuda", compiled=True)
    drawn = [compiled.generate(PROMPT, seed=3, steps=10)[0] for _ in range(2)]
    for picture in drawn:
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(usual).astype(int)).mean() < 1.0
