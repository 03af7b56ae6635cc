"""Levels of speed: settings that give way to what is said, recorded as what they are."""

from typing import Any

import pytest
from PIL import Image, ImageChops

from diafano.errors import UserError
from diafano.request.fast import LEVELS, with_level
from diafano.request.recorded import from_infotext, with_overrides
from diafano.request.request import Settings
from diafano.stable_diffusion import StableDiffusion


def test_a_level_gives_way_to_what_is_said() -> None:
    assert with_level({"fast": 2, "steps": 7, "seed": 1}) == {**LEVELS[2], "steps": 7, "seed": 1}
    assert with_level({"steps": 7}) == {"steps": 7}
    assert with_level({"fast": 0}) == {}
    assert "sampler" not in with_level({"fast": 1, "like": "a1111"})


@pytest.mark.parametrize("level", [-1, 4, 1.5, "2", True])
def test_levels_there_are_not_are_named(level: object) -> None:
    with pytest.raises(UserError, match=f"fast {level!r} is not possible: give a level from 0"):
        with_level({"fast": level})


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_every_level_is_a_request_that_can_be_drawn(tiny_model: StableDiffusion, level: int) -> None:
    request = tiny_model.request("a penguin", fast=level)
    for name, value in LEVELS[level].items():
        assert getattr(request, name) == value


def test_a_picture_records_the_settings_and_is_drawn_again_from_them(tiny_model: StableDiffusion) -> None:
    (drawn,) = tiny_model.generate("a penguin", fast=3, seed=5)
    text = drawn.info["parameters"]
    assert "Steps: 15, Sampler: UniPC" in text and "Deep cache: 3" in text
    recorded = from_infotext(text)
    (again,) = tiny_model.generate(recorded.prompt, **recorded.settings)
    assert difference(drawn, again) == 0
    exact = tiny_model.generate(recorded.prompt, **with_overrides(recorded, Settings(deep_cache=1)))[0]
    assert difference(drawn, exact) > 0


def test_a_level_replaces_what_a_picture_recorded(tiny_model: StableDiffusion) -> None:
    (drawn,) = tiny_model.generate("a penguin", sampler="heun", schedule="karras", steps=3, seed=5)
    settings = with_overrides(from_infotext(drawn.info["parameters"]), Settings(fast=1))
    request = tiny_model.request("a penguin", **settings)
    assert (request.sampler, request.steps, request.schedule, request.seed) == ("uni_pc", 25, "uniform", 5)


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of any pixel."""
    extrema: Any = ImageChops.difference(one, other).getextrema()
    return max(int(high) for _, high in extrema)
