"""The clean estimates of a run, side by side."""

import numpy as np
import pytest
import torch

from diafano.errors import UserError
from diafano.explain.filmstrip import Filmstrip
from diafano.stable_diffusion import StableDiffusion


def test_first_and_last_step_are_frames_and_the_last_is_the_picture(tiny_model: StableDiffusion) -> None:
    strip = Filmstrip(tiny_model, steps=5, frames=3)
    pictures = tiny_model.generate("a penguin", steps=5, seed=1, count=2, on_step=strip)
    sheet = np.asarray(strip.picture())
    assert sheet.shape == (2 * 64 + 2, 3 * 64 + 2 * 2, 3)  # a row a picture, 2 pixels between
    for row, picture in enumerate(pictures):
        # DDIM's last step goes to sigma 0: its clean estimate is the picture itself
        frame = sheet[row * 66 : row * 66 + 64, -64:]
        assert np.abs(frame.astype(int) - np.asarray(picture)).max() <= 1
    assert np.abs(sheet[:64, :64].astype(int) - sheet[:64, -64:]).mean() > 1


def test_frames_are_evenly_spaced_and_no_more_than_steps(tiny_model: StableDiffusion) -> None:
    seen = []

    class Watched(Filmstrip):
        def __call__(self, step: int, *rest: object) -> None:
            before = sum(len(row) for row in self._rows)
            super().__call__(step, *rest)  # type: ignore[arg-type]
            if sum(len(row) for row in self._rows) > before:
                seen.append(step)

    tiny_model.generate("a penguin", steps=9, seed=1, on_step=Watched(tiny_model, steps=9, frames=5))
    assert seen == [0, 2, 4, 6, 8]
    strip = Filmstrip(tiny_model, steps=2, frames=8)
    tiny_model.generate("a penguin", steps=2, seed=1, on_step=strip)
    assert strip.picture().size == (2 * 64 + 2, 64)


def test_without_a_run_or_without_frames_there_is_no_strip(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match="on_step"):
        Filmstrip(tiny_model, steps=5).picture()
    with pytest.raises(UserError, match="0 frames"):
        Filmstrip(tiny_model, steps=5, frames=0)


def test_a_run_that_is_repeated_because_of_nan_takes_its_place(tiny_model: StableDiffusion) -> None:
    strip, good = Filmstrip(tiny_model, steps=2, frames=2), torch.zeros(1, 4, 8, 8)
    for value in (torch.nan, 0.0, 0.0):  # the second run repeats the first, the third is another batch
        for step in range(2):
            strip(step, 1.0, good, good + value)
    assert strip.picture().size == (2 * 64 + 2, 2 * 64 + 2)
