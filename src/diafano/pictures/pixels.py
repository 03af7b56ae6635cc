"""Pictures <-> pixels in [-1, 1]: what networks see is a float32 tensor (3, height, width)."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diafano.errors import UserError

SEEN = 3
"""Levels of 256 by which a colour may differ through what is only a profile's rounding."""


def to_pixels(picture: Image.Image) -> Tensor:
    """Picture -> float32 tensor (3, height, width); 0 becomes -1, 255 becomes 1."""
    values = torch.from_numpy(np.array(_as_rgb(picture, "the picture")))  # (height, width, 3) uint8, a copy
    return values.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def to_picture(pixels: Tensor) -> Image.Image:
    """Tensor (3, height, width), nominally in [-1, 1] -> picture: rounded to 8 bits, what lies beyond is clamped.

    Raises UserError where a value is not a number or infinite: a picture of that would be black without a reason.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"pixels of shape (3, height, width) expected, not {tuple(pixels.shape)}")
    values = pixels.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            f"the picture came out with values that are not finite numbers ({pixels.dtype}): use dtype float32, "
            "or a lower guidance"
        )
    values = values.add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)
    return Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def as_rgb(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """Any mode of Pillow's -> RGB, as `read_picture` has it; `name` is what errors call it."""
    return _as_rgb(picture, name)


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resize and cut a picture to exactly (width, height), as large as it goes around its centre."""
    if width < 1 or height < 1:
        raise UserError(f"a picture cannot be made {width}x{height}: width and height are at least 1")
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), method=Image.Resampling.LANCZOS)


def grid(pictures: Sequence[Image.Image], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Put pictures in rows of `columns`, `gap` white pixels apart; each cell has the largest's size.

    None makes about as many columns as rows.
    """
    if not pictures:
        raise UserError("there are no pictures to put into a grid")
    if columns is None:
        columns = math.ceil(len(pictures) / round(math.sqrt(len(pictures))))
    if columns < 1:
        raise UserError(f"a grid cannot have {columns} columns: at least 1")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    return sheet


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode of Pillow's -> RGB, transparent parts on white, in sRGB if the picture says what its colours are."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip at 255, not scale
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise UserError(f"{name} has grey values beyond 16 bits: save it with 8 or 16 bits")
        image = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"{name} has floating-point grey values of unknown range: save it with 8 or 16 bits")
    elif isinstance(profile := image.info.get("icc_profile"), bytes):
        image = _in_srgb(image, profile)
    if image.mode == "La":  # which Pillow leads to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture with its colours as they are seen; one whose profile is broken, or of another mode, as it is."""
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        if image.mode != "P":
            return image
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    transform = _to_srgb(profile, image.mode)
    return image if transform is None else transform(image)


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """From the profile's colours to sRGB's; None where they are the same to `SEEN`, or the profile does not fit."""
    from PIL import ImageCms  # few pictures need it

    output = "RGB" if mode in ("L", "CMYK") else mode
    try:
        found = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(found, ImageCms.createProfile("sRGB"), mode, output)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode != "CMYK":
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
        before = Image.fromarray(colours).convert(mode)
        after = transform.apply(before).convert("RGB")
        if np.abs(np.asarray(after).astype(int) - np.asarray(before.convert("RGB"))).max() <= SEEN:
            return None

    def converted(picture: Image.Image) -> Image.Image:
        made = transform.apply(picture)
        made.info.pop("icc_profile", None)
        return made

    return converted
