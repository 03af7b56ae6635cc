"""Input: whatever a picture file holds becomes upright 8-bit RGB and back, or one clear error."""

import io
import pickle
import random
import struct
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from diafano.errors import UserError
from diafano.pictures.files import check_target, read_parameters, read_picture, save_picture
from diafano.pictures.metadata import _comment_text, metadata, with_parameters
from diafano.pictures.pixels import fit, grid, to_picture, to_pixels

SETTINGS = "a penguin on red\nNegative prompt: blur\nSteps: 50, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 128x128"


def noise_picture(width: int = 9, height: int = 5) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def corners() -> Image.Image:
    """16x8, red in the upper left quarter and blue elsewhere: shows which way is up."""
    picture = Image.new("RGB", (16, 8), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 8, 4))
    return picture


# ---- reading


def test_a_saved_png_reads_back_exactly(tmp_path: Path) -> None:
    save_picture(noise_picture(), tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").tobytes() == noise_picture().tobytes()


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    picture.putpixel((2, 0), (200, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    values = [read_picture(tmp_path / "a.png").getpixel((x, 0)) for x in range(3)]
    assert values[0] == (200, 0, 0)
    assert values[1] == (255, 255, 255)
    assert np.allclose(cast(Any, values[2]), (227, 127, 127), atol=1)


def test_a_transparent_palette_entry_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    read = read_picture(tmp_path / "a.png")
    assert (read.getpixel((0, 0)), read.getpixel((1, 0))) == ((255, 255, 255), (40, 50, 60))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (4, 4), "white").convert(mode if mode != "LA" else "L").convert(mode).save(path)
    read = read_picture(path)
    assert read.mode == "RGB"
    assert read.getpixel((2, 2)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array(read_picture(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_values_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70_000, dtype=np.int32)).save(tmp_path / "long.tif")
    for name in ("float.tif", "long.tif"):
        with pytest.raises(UserError, match="8 or 16 bits"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    inverse = {  # what a camera held that way stores of an upright picture
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = corners() if inverse is None else corners().transpose(inverse)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png").tobytes() == corners().tobytes()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def broken_files() -> dict[str, bytes]:
    buffer = io.BytesIO()
    noise_picture(64, 64).save(buffer, format="PNG")
    whole = buffer.getvalue()
    return {
        "empty": b"",
        "text": b"this is no picture",
        "half": whole[: len(whole) // 2],
        "header only": whole[:20],
        "bomb": png_header(30_000, 30_000),
        "larger than Pillow warns of": png_header(10_000, 10_000),
        "no extent": png_header(0, 0),
        "no extent, PPM": b"P6 0 0 255\n",
    }


@pytest.mark.parametrize("kind", list(broken_files()))
@pytest.mark.parametrize("read", [read_picture, read_parameters])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, kind: str, read: object) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(broken_files()[kind])
    with pytest.raises(UserError) as caught:
        read(path)  # type: ignore[operator]
    message = str(caught.value)
    assert "broken.png" in message
    assert ": " in message  # what to do follows
    assert "\n" not in message


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "damaged"
    for file_format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        noise_picture(32, 32).save(buffer, format=file_format)
        for _ in range(20):
            data = bytearray(buffer.getvalue())
            for _ in range(4):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data[: chance.randrange(1, len(data) + 1)])
            try:
                assert read_picture(path).mode == "RGB"
            except UserError as error:
                assert "damaged" in str(error)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no picture.*absent\.png"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(UserError, match="is a folder"):
        read_picture(tmp_path)


# ---- pixels


def test_pixels_range_from_minus_one_to_one() -> None:
    picture = Image.new("RGB", (2, 1), (0, 255, 51))
    pixels = to_pixels(picture)
    assert pixels.shape == (3, 1, 2)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert pixels[:, 0, 0].tolist() == pytest.approx([-1.0, 1.0, -0.6], abs=1e-6)


def test_every_byte_survives_the_way_there_and_back() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(np.array(to_picture(to_pixels(Image.fromarray(values)))), values)


def test_width_and_height_are_not_exchanged() -> None:
    assert to_pixels(noise_picture(9, 5)).shape == (3, 5, 9)
    assert to_picture(torch.zeros(3, 5, 9)).size == (9, 5)


def test_what_lies_beyond_the_range_is_clamped_and_what_is_between_rounded() -> None:
    pixels = torch.tensor([-7.0, 7.0, 127.6 / 127.5 - 1.0]).view(3, 1, 1)
    assert to_picture(pixels).getpixel((0, 0)) == (0, 255, 128)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_of_nan_is_an_error_not_black(value: float) -> None:
    pixels = torch.zeros(3, 2, 2, dtype=torch.float16)
    pixels[1, 1, 1] = value
    with pytest.raises(UserError, match=r"float16.*float32"):
        to_picture(pixels)


def test_half_precision_pixels_become_a_picture() -> None:
    assert to_picture(torch.full((3, 2, 2), 1.0, dtype=torch.bfloat16)).getpixel((1, 1)) == (255, 255, 255)


def test_a_batch_is_not_a_picture() -> None:
    with pytest.raises(ValueError, match="shape"):
        to_picture(torch.zeros(1, 3, 2, 2))


# ---- fit and grid


def test_fit_cuts_around_the_centre() -> None:
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste((0, 255, 0), (10, 0, 20, 10))  # the middle third
    fitted = fit(picture, 10, 10)
    assert fitted.size == (10, 10)
    assert fitted.getcolors() == [(100, (0, 255, 0))]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_fit_gives_the_size_that_was_asked_for(width: int, height: int, to_width: int, to_height: int) -> None:
    assert fit(Image.new("RGB", (width, height)), to_width, to_height).size == (to_width, to_height)


def test_fit_to_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="0x5"):
        fit(noise_picture(), 0, 5)


def test_a_grid_reads_row_by_row() -> None:
    colours = ["red", "green", "blue", "black", "yellow"]
    sheet = grid([Image.new("RGB", (4, 3), colour) for colour in colours], columns=2, gap=1)
    assert sheet.size == (2 * 4 + 1, 3 * 3 + 2)
    assert sheet.getpixel((0, 0)) == (255, 0, 0)
    assert sheet.getpixel((5, 0)) == (0, 128, 0)
    assert sheet.getpixel((0, 8)) == (255, 255, 0)
    assert sheet.getpixel((8, 8)) == (255, 255, 255)  # no sixth picture
    assert sheet.getpixel((4, 0)) == (255, 255, 255)  # the gap


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3), (12, 4)])
def test_a_grid_is_about_as_wide_as_high(count: int, columns: int) -> None:
    sheet = grid([noise_picture(4, 4)] * count, gap=0)
    assert sheet.size == (4 * columns, 4 * -(-count // columns))


def test_a_grid_is_no_wider_than_its_pictures() -> None:
    assert grid([noise_picture(4, 4)], columns=7).size == (4, 4)


@pytest.mark.parametrize(("count", "columns"), [(0, 2), (2, 0)])
def test_an_impossible_grid_is_an_error(count: int, columns: int) -> None:
    with pytest.raises(UserError):
        grid([noise_picture()] * count, columns)


# ---- writing


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_settings_come_back_from_every_format(tmp_path: Path, suffix: str) -> None:
    for settings in (SETTINGS, "zwei Äpfel auf 藍 🍎\nSteps: 1, Seed: 0, Size: 8x8"):
        save_picture(noise_picture(), tmp_path / f"a{suffix}", settings)
        assert read_parameters(tmp_path / f"a{suffix}") == settings


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60))
def test_any_text_comes_back(text: str) -> None:
    for file_format in ("JPEG", "WEBP"):
        buffer = io.BytesIO()
        noise_picture().save(buffer, format=file_format, **metadata(file_format, "prompt: " + text))
        exif = Image.open(buffer).getexif().get_ifd(ExifTags.IFD.Exif)
        assert _comment_text(exif[ExifTags.Base.UserComment]) == "prompt: " + text


def test_a_comment_in_the_other_byte_order_or_in_ascii_is_read() -> None:
    assert _comment_text(b"UNICODE\0" + "seven".encode("utf-16-le")) == "seven"
    assert _comment_text(b"UNICODE\0" + "seven".encode("utf-16")) == "seven"  # with a mark
    assert _comment_text(b"ASCII\0\0\0seven\0") == "seven"
    assert _comment_text(b"JIS\0\0\0\0\0?") is None
    assert _comment_text(None) is None
    assert _comment_text(b"a red apple\nSteps: 8") == "a red apple\nSteps: 8"  # no mark of the encoding
    assert _comment_text(b"\0" * 8 + "sèven".encode()) == "sèven"  # an undefined one
    assert _comment_text(b"\0" * 8) is None and _comment_text(b"\xff\xd8\xff\xe0nonsense") is None


def test_the_pictures_own_save_carries_the_settings(tmp_path: Path) -> None:
    drawn = with_parameters(noise_picture(), SETTINGS)
    for name in ("a.png", "a.jpg", "a.webp"):
        drawn.save(tmp_path / name)
        assert read_parameters(tmp_path / name) == SETTINGS
    save_picture(drawn, tmp_path / "b.png")
    assert read_parameters(tmp_path / "b.png") == SETTINGS
    drawn.save(tmp_path / "a.bmp")  # has no place for settings
    buffer = io.BytesIO()
    drawn.save(buffer, format="png")
    assert Image.open(buffer).info["parameters"] == SETTINGS
    assert pickle.loads(pickle.dumps(drawn)).info["parameters"] == SETTINGS


def test_carrying_settings_leaves_the_original_alone() -> None:
    original = noise_picture()
    drawn = with_parameters(original, SETTINGS)
    assert "parameters" not in original.info
    assert type(original) is Image.Image
    assert drawn.tobytes() == original.tobytes()


def test_a_picture_without_settings_has_none(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        save_picture(noise_picture(), tmp_path / name)
        assert read_parameters(tmp_path / name) is None


def test_settings_too_long_for_exif_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PNG"):
        save_picture(noise_picture(), tmp_path / "a.jpg", "x" * 40_000)
    save_picture(noise_picture(), tmp_path / "a.png", "x" * 40_000)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save_picture(noise_picture(), path)
    before = path.read_bytes()

    def full_disk(self: Image.Image, file: io.BufferedWriter, **_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(UserError, match="No space left"):
        save_picture(corners(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.gif", r"\.png"), ("a", r"\.png"), ("absent/a.png", "absent"), ("folder.png", "is a folder")],
)
def test_an_impossible_target_is_found_before_the_work(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=reason):
        check_target(tmp_path / name)
    with pytest.raises(UserError, match=reason):
        save_picture(noise_picture(), tmp_path / name)


def test_a_saved_picture_follows_the_umask(tmp_path: Path) -> None:
    save_picture(noise_picture(), tmp_path / "a.png")
    (tmp_path / "b").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b").stat().st_mode
