"""Sprites: the font, the sheet, sizes and tints."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.training.data.emoji.colours import TINTS
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.sprites import SPRITE_EDGE, Sprites


@pytest.fixture(scope="module")
def shipped() -> Sprites:
    return Sprites.shipped()


@pytest.fixture(scope="module")
def from_font() -> Sprites:
    try:
        return Sprites.from_font(names=["apple", "penguin", "key"])
    except UserError as error:
        pytest.skip(str(error))


def square(colour: tuple[int, int, int, int]) -> Image.Image:
    return Image.new("RGBA", (SPRITE_EDGE, SPRITE_EDGE), colour)


def test_shipped_sheet_has_every_object_and_its_licence(shipped: Sprites) -> None:
    assert list(shipped) == list(OBJECTS)
    notice = (files("diafano.training.data.emoji") / "noto" / "README.md").read_text(encoding="utf-8")
    assert "Google Inc" in notice
    assert "Apache License 2.0" in notice


def test_sprites_fill_their_square_and_differ(shipped: Sprites) -> None:
    seen: set[bytes] = set()
    for name, picture in shipped.items():
        assert picture.size == (SPRITE_EDGE, SPRITE_EDGE)
        left, top, right, bottom = picture.getchannel("A").getbbox() or (0, 0, 0, 0)
        assert max(right - left, bottom - top) >= SPRITE_EDGE - 2, name
        seen.add(picture.tobytes())
    assert len(seen) == len(shipped)


def test_sheet_shows_what_the_font_draws(shipped: Sprites, from_font: Sprites) -> None:
    for name, drawn in from_font.items():
        on_grey = [Image.new("RGBA", drawn.size, "grey") for _ in range(2)]
        for under, over in zip(on_grey, (drawn, shipped[name]), strict=True):
            under.alpha_composite(over)
        first, second = (np.asarray(picture, np.float64) for picture in on_grey)
        assert np.abs(first - second).mean() < 12, name  # another version of the font may shade a little differently


def test_sheet_keeps_every_visible_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (23, SPRITE_EDGE, SPRITE_EDGE, 4), np.uint8)
    pixels[..., 3] |= 1  # what is fully transparent has no colour to keep
    before = Sprites({f"thing {i}": Image.fromarray(p) for i, p in enumerate(pixels)})
    before.save_sheet(tmp_path / "new" / "sheet")
    after = Sprites.from_sheet(tmp_path / "new" / "sheet")
    assert list(after) == list(before)
    for name in before:
        np.testing.assert_array_equal(np.asarray(after[name]), np.asarray(before[name]))
    assert sorted(path.name for path in (tmp_path / "new" / "sheet").iterdir()) == ["sheet.json", "sheet.webp"]


def test_sheet_that_is_broken_or_incomplete_is_one_clear_error(tmp_path: Path) -> None:
    Sprites({"apple": square((255, 0, 0, 255))}).save_sheet(tmp_path)
    index = tmp_path / "sheet.json"
    whole = index.read_text(encoding="utf-8")
    for text in ("not json", "[]", "{}", json.dumps({"edge": 72, "columns": 0, "names": ["apple"]})):
        index.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="sprite sheet"):
            Sprites.from_sheet(tmp_path)
    index.write_text(whole.replace('"apple"', '"apple", "pear"').replace('"columns": 20', '"columns": 1'), "utf-8")
    with pytest.raises(UserError, match="does not fit"):
        Sprites.from_sheet(tmp_path)
    index.write_text(whole, encoding="utf-8")
    (tmp_path / "sheet.webp").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        Sprites.from_sheet(tmp_path)
    (tmp_path / "sheet.webp").unlink()
    with pytest.raises(UserError, match=r"lacks sheet\.webp"):
        Sprites.from_sheet(tmp_path)


def test_sheet_wants_squares_of_one_size(tmp_path: Path) -> None:
    mixed = Sprites({"a": square((0, 0, 0, 255)), "b": Image.new("RGBA", (8, 8))})
    with pytest.raises(UserError, match="one size"):
        mixed.save_sheet(tmp_path)


def test_resizing_leaves_no_dark_fringe() -> None:
    picture = Image.new("RGBA", (SPRITE_EDGE, SPRITE_EDGE), (0, 0, 0, 0))
    picture.paste((255, 255, 255, 255), (20, 20, 50, 50))
    small = Sprites({"box": picture}).sized("box", 17)
    assert small.shape == (17, 17, 4)
    assert small[small[..., 3] > 16][:, :3].min() >= 250


@pytest.mark.parametrize("tint", TINTS)
def test_a_tint_reads_as_its_colour(shipped: Sprites, tint: str) -> None:
    wrong = []
    for name in shipped:
        sprite = shipped.sized(name, 18, tint).astype(np.float64)
        alpha = sprite[..., 3:] / 255
        mean = (sprite[..., :3] * alpha).sum((0, 1)) / alpha.sum()
        nearest = min(TINTS, key=lambda other: float(np.linalg.norm(mean - TINTS[other])))
        if nearest != tint and name != "panda":  # half black and half white: no median says much about it
            wrong.append((name, nearest))
    assert wrong == []


def test_tint_keeps_the_shape_and_the_shading(shipped: Sprites) -> None:
    plain, blue = shipped.sized("penguin", 48), shipped.sized("penguin", 48, "blue")
    np.testing.assert_array_equal(plain[..., 3], blue[..., 3])
    solid = plain[..., 3] == 255
    light, shade = plain[solid][:, :3].astype(int).sum(1), blue[solid][:, :3].astype(int).sum(1)
    assert np.corrcoef(light, shade)[0, 1] > 0.8


@pytest.mark.parametrize("grey", [0, 255])
def test_even_black_and_white_take_a_tint(grey: int) -> None:
    sprites = Sprites({"slab": square((grey, grey, grey, 255))})
    assert (sprites.sized("slab", 20, "red")[..., :3] == TINTS["red"]).all()


def test_unknown_names_and_tints(shipped: Sprites) -> None:
    assert "apple" in shipped
    assert "sandcastle" not in shipped
    with pytest.raises(UserError, match="'sandcastle'"):
        shipped["sandcastle"]
    with pytest.raises(UserError, match="'mauve'"):
        shipped.sized("apple", 20, "mauve")
    with pytest.raises(UserError, match="no sprites"):
        Sprites({})


def test_missing_font_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(UserError, match="fonts-noto-color-emoji"):
        Sprites.from_font()


def test_fontconfig_without_the_font_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "fc-list"
    tool.write_text("#!/bin/sh\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool))
    with pytest.raises(UserError, match="fonts-noto-color-emoji"):
        Sprites.from_font()


def test_font_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Sprites.from_font(tmp_path / "none.ttf")
    (tmp_path / "text.ttf").write_text("no font", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be drawn"):
        Sprites.from_font(tmp_path / "text.ttf")


def test_object_that_is_none(from_font: Sprites) -> None:
    with pytest.raises(UserError, match="'sandcastle'"):
        Sprites.from_font(names=["sandcastle"])
