"""Masks: which of a picture's pixels are drawn anew, at what size, and what stands there before.

A mask is a grey picture ("L") of the picture's size: 255 is drawn anew, 0 stays as it is, what lies between is blended.
Names and defaults are A1111's (its masking.py, processing.py, 1.10).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps
from torch import Tensor

from diafano.errors import UserError, note
from diafano.pictures.pixels import as_rgb

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; the last two lie outside."""

HALF = 128
"""From this value on, of 255, a mask counts as white, and a pixel as seen."""

FILL_RADII = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radii of blurring, each laid so many times over the ones before: far pixels' colours first, near ones' on top."""


def as_mask(picture: Image.Image, name: str = "the mask") -> Image.Image:
    """Any mode of Pillow's -> a mask: grey values as they are; where the picture is transparent, as it is meant.

    On a transparent ground all that is painted is drawn anew, whatever its colour, as in A1111; a mask in black and
    white keeps what it lacks; and of a picture from which something was erased that is drawn anew, as in ComfyUI and
    at OpenAI. `name` is what errors and notes call it.
    """
    if picture.mode == "F":
        values = np.asarray(picture)
        if np.nanmin(values) >= 0.0 and np.nanmax(values) <= 1.0:
            return Image.fromarray(np.round(np.nan_to_num(values) * 255.0).astype(np.uint8))
    if not picture.has_transparency_data:
        return as_rgb(picture, name).convert("L")
    whole = picture.convert("RGBA")
    alpha = np.asarray(whole.getchannel("A"))
    seen = alpha >= HALF
    if seen.all():
        return as_rgb(whole, name).convert("L")
    grey = np.asarray(whole.convert("RGB").convert("L"))
    if not seen.any() or (grey[seen] >= HALF).all():
        return Image.fromarray(alpha)
    if _is_black_and_white(np.asarray(whole)[seen][:, :3]):
        return Image.fromarray(np.where(seen, grey, 0).astype(np.uint8))
    edge = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    if edge.mean() > 0.5:
        note(f"{name} is a picture from which something was erased: that is what is drawn anew")
        return ImageOps.invert(Image.fromarray(alpha))
    return Image.fromarray(alpha)


def _is_black_and_white(colours: NDArray[np.uint8]) -> bool:
    """Whether there is both, and next to nothing between."""
    dark, bright = (colours.max(axis=1) < 32), (colours.min(axis=1) >= 224)
    return bool(dark.any() and bright.any() and (dark | bright).mean() > 0.9)


def hard(mask: Image.Image, *, inverted: bool = False) -> Image.Image:
    """Any picture as a mask of 0 and 255: what is at least half as bright as white, or, inverted, everything else."""
    grey = as_mask(mask).point(lambda value: 255 if value >= HALF else 0)
    return ImageOps.invert(grey) if inverted else grey


def tell_of(mask: Image.Image, *, inverted: bool = False) -> None:
    """Note where a mask, `inverted` already, leaves nothing or everything to be drawn."""
    values = np.asarray(mask)
    least, most = int(values.min()), int(values.max())
    stays, drawn = ("white", "black") if inverted else ("black", "white")
    if most == 0:
        note(f"the mask is empty ({stays} everywhere), so nothing is drawn anew: make {drawn} what is to be drawn")
    elif least == 255:
        note(f"the mask is full ({drawn} everywhere), so all is drawn anew: make {stays} what is to stay")


def softened(mask: Image.Image, radius: float) -> Image.Image:
    """White stays white, and fades out around itself within about twice the radius, in pixels."""
    if radius < 0:
        raise UserError(f"the mask cannot be blurred by {radius}: give 0 for a hard edge, or a number of pixels")
    if radius == 0:
        return mask
    blurred = mask.filter(ImageFilter.GaussianBlur(radius))
    return ImageChops.lighter(mask, blurred.point(lambda value: min(255, 2 * value)))


def filled(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours from around the mask inside it (A1111's "fill")."""
    around = Image.new("RGBa", picture.size)  # colours that are multiplied by their alpha can be blurred
    around.paste(picture.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask))
    made = Image.new("RGBA", picture.size)
    for radius, times in FILL_RADII:
        blurred = around.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            made.alpha_composite(blurred)
    return made.convert("RGB")


@dataclass(frozen=True)
class Window:
    """A part of a picture, and the size that it is drawn at.

    Where the two differ in shape, the part is scaled to fit inside and its edges' pixels fill up the rest.
    """

    box: Box
    size: tuple[int, int]
    """(width, height) in pixels."""

    @property
    def _inside(self) -> Box:
        """Where the part lies when it is drawn."""
        width, height = self.size
        wide, high = self.box[2] - self.box[0], self.box[3] - self.box[1]
        if wide * height > high * width:
            inner = width, max(1, high * width // wide)
        else:
            inner = max(1, wide * height // high), height
        left, top = width // 2 - inner[0] // 2, height // 2 - inner[1] // 2
        return left, top, left + inner[0], top + inner[1]

    def scaled(self, picture: Image.Image) -> Image.Image:
        """The part of the picture, at the size to draw."""
        left, top, right, bottom = self._inside
        part = picture.crop(self.box)
        if part.size != (right - left, bottom - top):
            part = part.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        width, height = self.size
        values = np.pad(np.asarray(part), ((top, height - bottom), (left, width - right), (0, 0)), mode="edge")
        return Image.fromarray(values)

    def touched(self, mask: Image.Image) -> Tensor:
        """(1, 1, height, width), float32: 1 where any of the mask's pixels there is not black, 0 elsewhere."""
        left, top, right, bottom = self._inside
        part = torch.from_numpy(np.array(mask.crop(self.box), np.float32))[None, None]
        part = F.adaptive_max_pool2d((part > 0).float(), (bottom - top, right - left))
        return F.pad(part, (left, self.size[0] - right, top, self.size[1] - bottom))

    def put_back(self, drawn: Image.Image, picture: Image.Image) -> Image.Image:
        """The picture with what was drawn in the window's place."""
        part = drawn.crop(self._inside)
        size = self.box[2] - self.box[0], self.box[3] - self.box[1]
        whole = picture.copy()
        whole.paste(part if part.size == size else part.resize(size, Image.Resampling.LANCZOS), self.box[:2])
        return whole


def window_around(mask: Image.Image, size: tuple[int, int], padding: int) -> Window:
    """The smallest window with all of the mask and `padding` pixels around it, of the shape of `size` if that fits.

    Rounded and moved to lie inside the picture as in A1111 and diffusers. Of a black mask it is the whole picture.
    """
    found = mask.getbbox()
    if found is None:
        return Window((0, 0, *mask.size), size)
    left, top, right, bottom = found
    left, right = max(left - padding, 0), min(right + padding, mask.width)
    top, bottom = max(top - padding, 0), min(bottom + padding, mask.height)
    wide, high = right - left, bottom - top
    width, height = size
    if wide / high > width / height:
        top, bottom = _widened(top, bottom, int(wide / (width / height)), mask.height)
    else:
        left, right = _widened(left, right, int(high * (width / height)), mask.width)
    return Window((left, top, right, bottom), size)


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """The stretch made that long on both sides, as far as it goes between 0 and the limit."""
    more = max(0, length - (end - start))
    start, end = start - more // 2, end + more - more // 2
    if end > limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, min(limit, end - start)
    return start, end
