"""Masks: soft edges that stay outside the white, windows as diffusers cuts them, and colours from around."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diafano.errors import UserError
from diafano.pictures.masks import Window, filled, hard, softened, window_around


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@st.composite
def masks(draw: st.DrawFn) -> Image.Image:
    """A black picture with a white rectangle."""
    width, height = draw(st.integers(8, 80)), draw(st.integers(8, 80))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))))
    return mask


SIZES = st.sampled_from([(64, 64), (64, 96), (128, 64), (72, 80)])


@given(masks(), SIZES, st.sampled_from([0, 3, 32]))
def test_the_window_is_the_one_that_diffusers_cuts(mask: Image.Image, size: tuple[int, int], padding: int) -> None:
    assert window_around(mask, size, padding).box == VaeImageProcessor.get_crop_region(mask, *size, pad=padding)


@given(masks(), SIZES, st.sampled_from([0, 5]))
def test_a_window_shows_all_of_the_mask_and_is_put_back_where_it_was(
    mask: Image.Image, size: tuple[int, int], padding: int
) -> None:
    window = window_around(mask, size, padding)
    picture = noise(*mask.size)
    assert window.scaled(picture).size == size
    touched = window.touched(mask)
    assert touched.shape == (1, 1, size[1], size[0])
    assert touched.any()
    back = np.asarray(window.put_back(Image.new("RGB", size, "red"), picture))
    left, top, right, bottom = window.box
    assert (back[top:bottom, left:right] == (255, 0, 0)).all()
    outside = np.ones(mask.size[::-1], bool)
    outside[top:bottom, left:right] = False
    assert (back[outside] == np.asarray(picture)[outside]).all()
    assert (np.asarray(mask)[outside] == 0).all()


def test_a_window_of_its_own_size_changes_nothing() -> None:
    picture, window = noise(40, 24), Window((8, 4, 32, 20), (24, 16))
    assert window.scaled(picture).tobytes() == picture.crop(window.box).tobytes()
    assert window.put_back(window.scaled(picture), picture).tobytes() == picture.tobytes()


def test_a_window_of_another_shape_repeats_its_edges() -> None:
    picture, window = noise(10, 30), Window((0, 0, 10, 30), (40, 30))
    scaled = np.asarray(window.scaled(picture))
    assert (scaled[:, 15:25] == np.asarray(picture)).all()
    assert (scaled[:, :15] == scaled[:, 15:16]).all() and (scaled[:, 25:] == scaled[:, 24:25]).all()
    touched = window.touched(Image.new("L", (10, 30), 255))
    assert torch.equal(touched[0, 0, 0], (torch.arange(40) // 5 == 3).float() + (torch.arange(40) // 5 == 4).float())


def test_a_pixel_of_the_mask_touches_all_that_is_drawn_of_it() -> None:
    mask = Image.new("L", (32, 32))
    mask.putpixel((5, 7), 1)
    touched = Window((0, 0, 32, 32), (64, 64)).touched(mask)
    assert touched[0, 0].nonzero().tolist() == [[y, x] for y in (14, 15) for x in (10, 11)]
    assert Window((0, 0, 32, 32), (8, 8)).touched(mask)[0, 0].nonzero().tolist() == [[1, 1]]


@given(masks(), st.sampled_from([1.0, 4.0]))
def test_a_soft_edge_lies_outside_the_white(mask: Image.Image, radius: float) -> None:
    soft, white = np.asarray(softened(mask, radius)), np.asarray(mask) == 255
    assert (soft[white] == 255).all()
    rows, columns = white.nonzero()
    far = np.ones(white.shape, bool)
    reach = int(4 * radius) + 1
    far[
        max(0, rows.min() - reach) : rows.max() + reach + 1, max(0, columns.min() - reach) : columns.max() + reach + 1
    ] = 0
    assert (soft[far] == 0).all()
    assert softened(mask, 0) is mask


def test_a_mask_is_hardened_and_inverted() -> None:
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    assert list(hard(grey).tobytes()) == [0, 0, 255, 255]
    assert list(hard(grey, inverted=True).tobytes()) == [255, 255, 0, 0]
    with pytest.raises(UserError, match="cannot be blurred by -1"):
        softened(grey, -1)


def test_the_mask_is_filled_with_the_colours_around_it() -> None:
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("red", (0, 0, 32, 64))
    picture.paste("blue", (32, 0, 64, 64))
    mask = Image.new("L", (64, 64))
    for box in ((8, 20, 24, 40), (40, 20, 56, 40)):
        picture.paste("white", box)
        mask.paste(255, box)
    made = np.asarray(filled(picture, mask)).astype(int)
    inside = np.asarray(mask) > 0
    assert (made[~inside] == np.asarray(picture)[~inside]).all()
    assert made[30, 16, 0] > 200 and made[30, 16, 1:].max() < 60  # red among red
    assert made[30, 48, 2] > 200 and made[30, 48, :2].max() < 60
