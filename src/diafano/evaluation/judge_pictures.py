"""What the judge learns from: rendered scenes, spoilt a little as drawn pictures are, and things it must not accept.

Its scenes come from the same renderer as the generator's, but the two never meet: the judge sees every combination,
since its task is to recognise, not to combine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from diafano.evaluation.detector import BACKGROUND_CLASSES, CELLS, EDGE, STRIDE, TINT_CLASSES
from diafano.training.data.emoji.colours import COLOURS
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.scene_sampler import SceneSampler
from diafano.training.data.emoji.scenes import Placement, Scene, render
from diafano.training.data.emoji.sprites import Sprites

IGNORED = -100
"""Class index that a loss leaves out (PyTorch's default)."""

STRANGER_SHARE = 0.2
"""Share of scenes that may show objects which the judge does not know, and has to leave unnamed."""
MIXED_SHARE = 0.05
"""Share of scenes on a background of two colours, which is no background of a name."""
TEXTURE_SHARE = 0.03
"""Share of pictures that are noise, from fine grain to soft clouds."""
SHUFFLED_SHARE = 0.04
"""Share of pictures cut into tiles that are laid out anew: all the colours, none of the shapes."""
MELTED_SHARE = 0.05
"""Share of pictures blurred until their objects are blobs."""


@dataclass(frozen=True, eq=False)
class JudgeBatch:
    """Pictures and what the judge should say of them."""

    pixels: Tensor
    """(b, 3, 64, 64) in [-1, 1]."""
    heat: Tensor
    """(b, objects, 16, 16): 1 at centres of objects, falling off around them as a Gaussian."""
    tints: Tensor
    """(b, 16, 16) int64: class of the tint near centres, `IGNORED` elsewhere."""
    background: Tensor
    """(b,) int64: class of the background, or `IGNORED`."""


@dataclass(frozen=True, eq=False)
class _Drawn:
    pixels: NDArray[np.uint8]
    placements: tuple[Placement, ...]
    background: int


class JudgePictures:
    """Batches without end, each decided by (seed, its number) alone."""

    def __init__(self, sprites: Sprites, objects: Sequence[str], seed: int) -> None:
        self.sprites, self.objects, self.seed = sprites, tuple(objects), seed
        self.classes = {name: index for index, name in enumerate(self.objects)}
        # Both halves of all combinations; the two together are what the judge may be asked about.
        self.known = (SceneSampler(self.objects), SceneSampler(self.objects, held_out=True))
        self.all = (SceneSampler(tuple(OBJECTS)), SceneSampler(tuple(OBJECTS), held_out=True))

    def batch(self, number: int, size: int) -> JudgeBatch:
        """Batch of that number: `size` pictures."""
        rng = np.random.default_rng((self.seed, number))
        drawn = [self._draw(rng) for _ in range(size)]
        pixels = torch.from_numpy(np.stack([one.pixels for one in drawn]))
        pixels = pixels.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels, moves = warped(pixels, generator)
        heat = np.zeros((size, len(self.objects), CELLS, CELLS), np.float32)
        tints = np.full((size, CELLS, CELLS), IGNORED, np.int64)
        for index, one in enumerate(drawn):
            self._mark(one.placements, moves[index].numpy(), heat[index], tints[index])
        background = torch.tensor([one.background for one in drawn])
        return JudgeBatch(spoilt(pixels, generator), torch.from_numpy(heat), torch.from_numpy(tints), background)

    def _draw(self, rng: np.random.Generator) -> _Drawn:
        """One picture before it is spoilt."""
        kind = rng.random()
        if kind < TEXTURE_SHARE:
            return _Drawn(_texture(rng), (), BACKGROUND_CLASSES.index(None))
        samplers = self.all if rng.random() < STRANGER_SHARE else self.known
        scene = samplers[int(rng.integers(2))].sample(rng)
        kind -= TEXTURE_SHARE
        if kind < MIXED_SHARE:
            return self._mixed(scene, rng)
        rendered = render(scene, self.sprites, EDGE, rng)
        background = BACKGROUND_CLASSES.index(scene.background)
        kind -= MIXED_SHARE
        if kind < SHUFFLED_SHARE:
            return _Drawn(_shuffled(rendered.pixels, rng), (), IGNORED)
        kind -= SHUFFLED_SHARE
        if kind < MELTED_SHARE:
            return _Drawn(_melted(rendered.pixels, rng), (), IGNORED)
        return _Drawn(rendered.pixels, rendered.placements, background)

    def _mixed(self, scene: Scene, rng: np.random.Generator) -> _Drawn:
        """The scene on two colours that meet at a line or run into each other."""
        tints = [thing.tint for thing in scene.things]
        others = [colour for colour in COLOURS if colour not in (*tints, scene.background)]
        other = replace(scene, background=others[int(rng.integers(len(others)))])
        seed = int(rng.integers(2**62))  # the same chance twice: the same places
        one, two = (render(each, self.sprites, EDGE, np.random.default_rng(seed)) for each in (scene, other))
        angle, sharpness = rng.random() * 2 * np.pi, 10 ** rng.uniform(-0.3, 1.5)
        row, column = np.mgrid[0:EDGE, 0:EDGE] / EDGE - 0.5
        share = np.clip(0.5 + sharpness * (np.cos(angle) * row + np.sin(angle) * column), 0, 1)[..., None]
        pixels = one.pixels * (1 - share) + two.pixels * share
        return _Drawn(np.rint(pixels).astype(np.uint8), one.placements, BACKGROUND_CLASSES.index(None))

    def _mark(
        self,
        placements: Sequence[Placement],
        move: NDArray[np.float32],
        heat: NDArray[np.float32],
        tints: NDArray[np.int64],
    ) -> None:
        """Write the targets of one picture; `move` (2, 3) takes a point of the scene to where the warp put it."""
        rows, columns = np.mgrid[0:CELLS, 0:CELLS]
        for placement in placements:
            if placement.name not in self.classes:
                continue
            left, top, right, bottom = placement.box
            x, y = move @ np.array([(left + right) / EDGE - 1, (top + bottom) / EDGE - 1, 1], np.float32)
            column, row = (int(np.clip((place + 1) / 2 * CELLS, 0, CELLS - 1)) for place in (x, y))
            spread = max(0.7, (right - left) / STRIDE / 8)  # in cells
            near = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))
            target = heat[self.classes[placement.name]]
            np.maximum(target, near, out=target)
            tints[near > 0.3] = TINT_CLASSES.index(placement.tint)


def warped(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn, stretch, shift and bend pictures a little: generators copy shapes only roughly.

    Returns the pictures and (b, 2, 3): where the warp takes a point (x, y, 1), in [-1, 1] (bending left out, since it
    moves nothing by more than about a pixel).
    """
    count = len(pixels)
    angle = _uniform((count,), -0.09, 0.09, generator)
    stretch = _uniform((count, 2), 0.9, 1.1, generator)
    shift = _uniform((count, 2), -0.06, 0.06, generator)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    forward = turn * stretch[:, None, :]
    inverse = torch.linalg.inv(forward)
    back = torch.cat([inverse, -inverse @ shift[:, :, None]], dim=2)  # grid_sample asks where a pixel comes from
    grid = F.affine_grid(back, list(pixels.shape), align_corners=False)
    amplitude = _uniform((count, 1, 1, 1), 0.0, 0.02, generator)
    bend = F.interpolate(
        torch.randn((count, 2, 6, 6), generator=generator) * amplitude,
        (EDGE, EDGE),
        mode="bicubic",
        align_corners=False,
    )
    moved = F.grid_sample(pixels, grid + bend.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    return moved, torch.cat([forward, shift[:, :, None]], dim=2)


def spoilt(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Slight blur, grain, blotches, a shift of colours and 8-bit rounding: faults that leave a picture recognisable."""
    count = len(pixels)
    sigma = _uniform((count, 1), 0.15, 0.85, generator)
    taps = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)  # (3b, 5)
    flat = F.pad(pixels, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]  # (1, 3b, 68, 68)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=3 * count)
    pixels = F.conv2d(flat, kernel[:, None, None, :], groups=3 * count).view(count, 3, EDGE, EDGE)
    gain = _uniform((count, 1, 1, 1), 0.92, 1.08, generator) * _uniform((count, 3, 1, 1), 0.96, 1.04, generator)
    offset = _uniform((count, 3, 1, 1), -0.06, 0.06, generator)
    grain = torch.randn(pixels.shape, generator=generator) * _uniform((count, 1, 1, 1), 0.0, 0.08, generator)
    coarse = torch.randn((count, 3, CELLS, CELLS), generator=generator)
    blotches = F.interpolate(coarse * _uniform((count, 1, 1, 1), 0.0, 0.08, generator), (EDGE, EDGE), mode="bilinear")
    pixels = (pixels * gain + offset + grain + blotches).clamp(-1, 1)
    return pixels.add(1).mul(127.5).round().div(127.5).sub(1)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise of one grain size, (64, 64, 3)."""
    cells = int(rng.choice((2, 3, 4, 8, 16, 32, 64)))
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 3, cells, cells)).astype(np.float32))
    coarse = coarse * rng.uniform(0.5, 1.5) + torch.from_numpy(rng.uniform(-0.6, 0.6, (1, 3, 1, 1)).astype(np.float32))
    mode = "bilinear" if rng.random() < 0.7 else "nearest"
    soft = F.interpolate(coarse, (EDGE, EDGE), mode=mode)[0].clamp(-1, 1)
    return soft.permute(1, 2, 0).add(1).mul(127.5).byte().numpy()


def _shuffled(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Tiles of 8 pixels in another order."""
    side = EDGE // 8
    tiles = pixels.reshape(side, 8, side, 8, 3).swapaxes(1, 2).reshape(side * side, 8, 8, 3)
    tiles = tiles[rng.permutation(side * side)]
    return np.ascontiguousarray(tiles.reshape(side, side, 8, 8, 3).swapaxes(1, 2).reshape(EDGE, EDGE, 3))


def _melted(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blurred far beyond recognition, by a Gaussian of 3.5 to 6 pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(3.5, 6.0))))
