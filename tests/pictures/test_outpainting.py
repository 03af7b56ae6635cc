"""Outpainting: sides as they are typed, and a canvas whose middle is the picture."""

from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.pictures.outpainting import enlarged
from diafano.pictures.sides import Sides, read_sides


@pytest.mark.parametrize(
    ("said", "sides"),
    [
        ("left=64,top=32", (64, 32, 0, 0)),
        ("right=8, bottom=4", (0, 0, 8, 4)),
        ("all=16", (16, 16, 16, 16)),
        ("all=16,left=0", (0, 16, 16, 16)),
        ({"left": 3}, (3, 0, 0, 0)),
        (Sides(right=2), (0, 0, 2, 0)),
    ],
)
def test_sides_are_read(said: object, sides: tuple[int, ...]) -> None:
    assert read_sides(said) == sides
    assert read_sides(str(read_sides(said))) == sides


@pytest.mark.parametrize(
    "said", ["", "64", "left", "left=-1", "left=x", "up=3", "left=0", {"left": 1.5}, 64, {"left": True}]
)
def test_sides_that_are_none_are_one_sentence(said: object) -> None:
    with pytest.raises(UserError, match="such as left=64,top=32"):
        read_sides(said)


def test_the_canvas_repeats_the_edges_and_the_mask_is_what_is_new() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    canvas, mask = enlarged(picture, Sides(left=2, bottom=3))
    assert canvas.size == mask.size == (9, 8)
    drawn, old = np.asarray(canvas), np.asarray(picture)
    assert (drawn[:5, 2:] == old).all()
    assert (drawn[:5, 0] == old[:, 0]).all() and (drawn[7, 2:] == old[4]).all()
    assert ((np.asarray(mask) == 0).nonzero()[0].min(), np.asarray(mask)[:5, 2:].max()) == (0, 0)
    assert np.asarray(mask)[5:].min() == 255 and np.asarray(mask)[:, :2].min() == 255


def test_the_pictures_own_mask_goes_with_it() -> None:
    own = Image.new("L", (4, 4))
    own.putpixel((1, 1), 255)
    _, mask = enlarged(Image.new("RGB", (4, 4)), Sides(top=2), own)
    assert np.asarray(mask)[2:].nonzero() == cast(Any, (1, 1))
