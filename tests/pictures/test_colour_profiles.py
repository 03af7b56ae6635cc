"""Pictures that say what their colours are: Comfy-Org/ComfyUI 11241, chaiNNer-org/chaiNNer 2599."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diafano.pictures.files import read_picture
from diafano.pictures.pixels import as_rgb

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged() -> bytes:
    """A profile whose red is sRGB's green, and the other way round."""
    profile = bytearray(SRGB)
    (count,) = struct.unpack(">I", SRGB[128:132])
    entries = {SRGB[at : at + 4]: at for at in range(132, 132 + 12 * count, 12)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        SRGB[green + 4 : green + 12],
        SRGB[red + 4 : red + 12],
    )
    return bytes(profile)


def picture(mode: str, profile: bytes | None) -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    made = Image.fromarray(colours).convert(mode)
    if profile is not None:
        made.info["icc_profile"] = profile
    return made


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_read_as_they_are_seen(mode: str) -> None:
    plain, seen = (np.asarray(as_rgb(picture(mode, profile))).astype(int) for profile in (None, exchanged()))
    assert np.abs(seen[..., [1, 0, 2]] - plain).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK", "LA", "1"])
@pytest.mark.parametrize("profile", [SRGB, b"no profile"], ids=["sRGB", "broken"])
def test_bits_stay_where_there_is_nothing_to_do(mode: str, profile: bytes) -> None:
    assert as_rgb(picture(mode, profile)).tobytes() == as_rgb(picture(mode, None)).tobytes()


def test_a_profile_of_another_mode_is_left_out() -> None:
    assert as_rgb(picture("CMYK", exchanged())).tobytes() == as_rgb(picture("CMYK", None)).tobytes()


def test_a_file_is_converted_once(tmp_path: Path) -> None:
    picture("RGB", None).save(tmp_path / "x.png", icc_profile=exchanged())
    once = read_picture(tmp_path / "x.png")
    assert as_rgb(once).tobytes() == once.tobytes()
    assert once.tobytes() == as_rgb(picture("RGB", exchanged())).tobytes()


def test_premultiplied_grey_is_read() -> None:
    assert as_rgb(Image.new("La", (2, 2), (10, 255))).getpixel((0, 0)) == (10, 10, 10)
