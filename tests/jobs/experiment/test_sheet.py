"""The labelled picture: what is where, and nothing is cut off."""

from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from diafano.jobs.experiment.axes import cells_of, read_axis
from diafano.jobs.experiment.sheet import LARGEST_SHEET, sheet

COLOURS = ["red", "lime", "blue", "yellow", "cyan", "magenta", "navy", "maroon"]


def colours(page: Image.Image) -> dict[tuple[int, int, int], tuple[float, float]]:
    """Colour -> the middle of where it is, x and y."""
    pixels = np.asarray(page)
    found: dict[Any, tuple[float, float]] = {}
    for count, colour in page.getcolors(1 << 20) or []:
        if count > 1000:
            rows, columns = np.nonzero((pixels == colour).all(axis=2))
            found[colour] = (columns.mean(), rows.mean())
    return found


@pytest.mark.parametrize("sizes", [(2,), (2, 3), (2, 2, 2)])
def test_each_picture_is_in_its_place(sizes: tuple[int, ...]) -> None:
    names = ("steps", "seed", "clip_skip")
    axes = [read_axis(f"{name}={','.join(map(str, range(size)))}") for name, size in zip(names, sizes, strict=False)]
    cells = cells_of(axes)
    pictures = {cell.place: Image.new("RGB", (64, 32), COLOURS[at]) for at, cell in enumerate(cells)}
    page = sheet(axes, pictures)
    at = colours(page)
    middles = {place: at[cast(Any, picture.getpixel((0, 0)))] for place, picture in pictures.items()}
    for one in cells:
        for other in cells:
            if one.place[0] < other.place[0] and one.place[1:] == other.place[1:]:
                assert middles[one.place][0] < middles[other.place][0]
                assert middles[one.place][1] == pytest.approx(middles[other.place][1], abs=2)
            if one.place[::-1] < other.place[::-1] and one.place[1:] != other.place[1:]:
                assert middles[one.place][1] < middles[other.place][1]
    assert (221, 221, 221) not in at


def test_what_is_not_drawn_stays_grey() -> None:
    axes = [read_axis("steps=1,2"), read_axis("seed=1,2")]
    page = sheet(axes, {(0, 0): Image.new("RGB", (64, 64), "red")})
    assert {(255, 0, 0), (221, 221, 221)} <= colours(page).keys()


def test_one_axis_of_many_is_about_square() -> None:
    axes = [read_axis(f"seed={','.join(map(str, range(30)))}")]
    page = sheet(axes, {cell.place: Image.new("RGB", (64, 64), "red") for cell in cells_of(axes)})
    assert 0.7 < page.width / page.height < 1.4


def test_large_sheets_are_made_smaller() -> None:
    axes = [read_axis(f"seed={','.join(map(str, range(40)))}"), read_axis("steps=1,2")]
    picture = Image.new("RGB", (512, 512), "red")
    page = sheet(axes, {cell.place: picture for cell in cells_of(axes)})
    assert page.width < LARGEST_SHEET + 1000


def test_long_labels_are_shortened_and_stay_on_the_page() -> None:
    prompts = ["word " * 200, "蘋" * 300, "x"]
    axis = read_axis("prompt=" + str(prompts).replace("'", '"'))
    for axes in ([axis], [read_axis("seed=1,2"), axis], [axis, read_axis("seed=1,2")]):
        page = sheet(axes, {cell.place: Image.new("RGB", (64, 64), "red") for cell in cells_of(axes)})
        assert page.width < 900 and page.height < 900
        edge = np.asarray(page)[:, [0, 1, -1]]
        assert (edge[:, :2] == 255).all(), "no text runs over the left edge"
