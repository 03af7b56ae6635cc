"""Requests drawn as one batch are what each draws alone."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from diafano.errors import collect_notes
from diafano.jobs.queue.together import draw_together
from diafano.pictures.infotext import parse_infotext
from diafano.stable_diffusion import StableDiffusion


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m_sde", "uni_pc"])
@pytest.mark.parametrize("more", [{}, {"guidance": "7:3", "like": "a1111"}, {"tileable": "x", "guidance": 1.0}])
def test_each_gets_what_it_draws_alone(tiny_model: StableDiffusion, sampler: str, more: dict[str, Any]) -> None:
    said: list[dict[str, Any]] = [
        {"prompt": "a fox", "seed": 1},
        {"prompt": "two bananas", "seed": 9, "count": 2, "negative": "red"},
        {"prompt": "a [star:heart:0.5]", "seed": 1},
    ]
    with collect_notes():  # UniPC is not quite A1111's
        requests = [tiny_model.request(**one, steps=4, sampler=sampler, **more) for one in said]
    steps: list[int] = []
    together = draw_together(tiny_model, requests, lambda step, sigma, noisy, clean: steps.append(len(clean)))
    assert steps == [4] * tiny_model.plan(requests[0]).steps  # one batch of all
    for request, pictures in zip(requests, together, strict=True):
        alone = tiny_model.draw(request)
        assert len(pictures) == len(alone) == request.count
        for one, other in zip(pictures, alone, strict=True):
            assert difference(one, other) <= 1
            assert one.info["parameters"] == other.info["parameters"]
    assert difference(together[0][0], together[1][0]) > 1


@pytest.mark.parametrize("prompt", ["a fox AND a star", "(a fox:1.5) " + "and a star " * 40])
def test_what_does_not_fit_in_one_batch_is_drawn_by_itself(tiny_model: StableDiffusion, prompt: str) -> None:
    requests = [tiny_model.request(text, seed=seed, steps=2) for seed, text in enumerate(("a fox", prompt, "a cat"))]
    together = draw_together(tiny_model, requests)
    for request, (picture,) in zip(requests, together, strict=True):
        assert difference(picture, tiny_model.draw(request)[0]) <= 1
        assert parse_infotext(picture.info["parameters"])


def test_variations(tiny_model: StableDiffusion) -> None:
    vary = {"variation_seed": 5, "variation_strength": 0.4, "steps": 2, "count": 2}
    requests = [tiny_model.request(text, seed=seed, **vary) for seed, text in enumerate(("a fox", "a cat"))]  # type: ignore[arg-type]
    for request, pictures in zip(requests, draw_together(tiny_model, requests), strict=True):
        for one, other in zip(pictures, tiny_model.draw(request), strict=True):
            assert difference(one, other) <= 1
