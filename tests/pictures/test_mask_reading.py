"""Masks as people have them: whatever the file is, what was marked is drawn anew, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.pictures.files import read_mask, read_picture
from diafano.pictures.masks import hard
from diafano.stable_diffusion import StableDiffusion
from helpers import told

SIZE, BOX = (64, 64), (16, 16, 40, 48)
CASES = Path(__file__).parents[1] / "cases"


def photo() -> Image.Image:
    """Of many colours."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8))


def painted(mode: str, ground: object, paint: object) -> Image.Image:
    picture = Image.new(mode, SIZE, ground)  # type: ignore[arg-type]
    picture.paste(paint, BOX)  # type: ignore[arg-type]
    return picture


def with_alpha(picture: Image.Image, inside: int, outside: int) -> Image.Image:
    picture.putalpha(painted("L", outside, inside))
    return picture


def sixteen_bits() -> Image.Image:
    values = np.zeros(SIZE[::-1], np.uint16)
    values[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 40_000
    return Image.fromarray(values)


def palette() -> Image.Image:
    picture = painted("P", 0, 1)
    picture.putpalette([0, 0, 0, 255, 0, 255])
    picture.info["transparency"] = 0
    return picture


def holes_in_white() -> Image.Image:
    """All white but for what was erased around the box."""
    return with_alpha(Image.new("RGB", SIZE, "white"), 255, 0)


def black_and_white_with_holes() -> Image.Image:
    """White in the box, black elsewhere, and a corner of both erased."""
    picture = painted("RGB", "black", "white").convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
    return picture


FORMS: dict[str, Callable[[], Image.Image]] = {
    "white on black": lambda: painted("RGB", "black", "white"),
    "grey": lambda: painted("L", 20, 200),
    "grey with alpha": lambda: painted("LA", (0, 255), (255, 255)),
    "one bit": lambda: painted("1", 0, 1),
    "16 bits": sixteen_bits,
    "white on a transparent ground": lambda: with_alpha(Image.new("RGB", SIZE, "white"), 255, 0),
    "red on a transparent ground": lambda: with_alpha(Image.new("RGB", SIZE, "red"), 255, 0),
    "black on a transparent ground": lambda: with_alpha(Image.new("RGB", SIZE, "black"), 255, 0),
    "white painted, black beneath what is transparent": lambda: with_alpha(painted("RGB", "black", "white"), 255, 0),
    "a palette with a transparent colour": palette,
    "a cut-out object": lambda: with_alpha(photo(), 255, 0),
    "holes erased in white": holes_in_white,
    "black and white with holes": black_and_white_with_holes,
    "opaque alpha": lambda: painted("RGB", "black", "white").convert("RGBA"),
    "floats from 0 to 1": lambda: Image.fromarray(np.asarray(painted("L", 0, 255)).astype(np.float32) / 255.0),
}
ERASED = {
    "a picture with an erased hole": lambda: with_alpha(photo(), 0, 255),
    "one colour with an erased hole": lambda: with_alpha(Image.new("RGB", SIZE, "blue"), 0, 255),
    "black with an erased hole": lambda: with_alpha(Image.new("RGB", SIZE, "black"), 0, 255),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_marked_is_drawn_anew(form: str) -> None:
    expected = np.asarray(painted("L", 0, 255))
    assert (np.asarray(hard(FORMS[form]())) == expected).all()
    assert (np.asarray(hard(FORMS[form](), inverted=True)) == 255 - expected).all()


@pytest.mark.parametrize("form", ERASED)
def test_what_was_erased_is_drawn_anew_and_said(form: str) -> None:
    with told("something was erased: that is what is drawn anew"):
        assert (np.asarray(hard(ERASED[form]())) == np.asarray(painted("L", 0, 255))).all()


@pytest.mark.parametrize("form", [one for one in FORMS if not one.startswith("floats")])
def test_files_are_read_as_pictures_in_memory(form: str, tmp_path: Path) -> None:
    FORMS[form]().save(tmp_path / "mask.png")
    assert (np.asarray(hard(read_mask(tmp_path / "mask.png"))) == np.asarray(painted("L", 0, 255))).all()


def test_a_camera_s_rotation_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # upright when turned by 90 degrees
    painted("L", 0, 255).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "mask.jpg", exif=exif, quality=100)
    assert (np.asarray(hard(read_mask(tmp_path / "mask.jpg"))) == np.asarray(painted("L", 0, 255))).all()


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7.5, np.float32)).save(tmp_path / "mask.tif")
    with pytest.raises(UserError, match=r"the mask .*mask.tif.* has floating-point grey values"):
        read_mask(tmp_path / "mask.tif")
    with pytest.raises(UserError, match="there is no picture"):
        read_mask(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("mask", "inverted", "sentence"),
    [
        (Image.new("L", SIZE, 0), False, r"the mask is empty \(black everywhere\), so nothing is drawn anew"),
        (Image.new("RGBA", SIZE, (255, 255, 255, 0)), False, "the mask is empty"),
        (Image.new("L", SIZE, 255), False, r"the mask is full \(white everywhere\), so all is drawn anew"),
        (Image.new("L", SIZE, 255), True, r"the mask is empty \(white everywhere\)"),
        (Image.new("L", SIZE, 0), True, r"the mask is full \(black everywhere\)"),
    ],
)
def test_an_empty_or_full_mask_says_so(
    tiny_model: StableDiffusion, mask: Image.Image, inverted: bool, sentence: str
) -> None:
    with told(sentence):
        tiny_model.prepare("a cat", image=photo(), mask=mask, invert_mask=inverted)


def test_a_mask_of_another_size_is_scaled(tiny_model: StableDiffusion) -> None:
    for size in ((128, 128), (32, 32)):
        mask = painted("L", 0, 255).resize(size, Image.Resampling.NEAREST)
        _, start = tiny_model.prepare("a cat", image=photo(), mask=mask)
        assert start is not None and start.mask is not None
        assert (np.asarray(start.mask) == np.asarray(painted("L", 0, 255))).all()
    with pytest.raises(UserError, match="the mask has 64x32 pixels and the picture 64x64: make them of one shape"):
        tiny_model.prepare("a cat", image=photo(), mask=Image.new("L", (64, 32), 255))


def test_the_case_from_the_field(tiny_model: StableDiffusion) -> None:
    """A white square on a transparent ground: only that is drawn anew."""
    picture, mask = read_picture(CASES / "img_base.png"), read_mask(CASES / "img_mask_alpha.png")
    (drawn,) = tiny_model.generate("a cat", image=picture, mask=mask, seed=1, steps=2)
    changed = (np.asarray(drawn) != np.asarray(picture)).any(axis=2)
    marked = np.asarray(Image.open(CASES / "img_mask_alpha.png").getchannel("A")) > 0
    assert 0 < marked.mean() < 0.5
    assert changed[marked].mean() > 0.9 and not changed[~marked].any()
