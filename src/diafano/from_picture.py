"""Drawing from a picture: image-to-image, inpainting and outpainting are text-to-image with another start and a fixed
surrounding.

    strength   which share of the steps is run: the start is the picture's latent, noised to the first of their sigmas
               (SDEdit, Meng et al. 2021, arXiv 2108.01073)
    mask       what is drawn anew; elsewhere the clean estimate of every step is the picture's own latent, so that the
               noisy latent there follows the picture's, whatever the sampler (Lugmayr et al. 2022, arXiv 2201.09865)

Both leave samplers, guidance and the UNet as they are. With a mask the picture keeps its size, and its pixels outside
the mask their values: what was drawn is put back into it, however large it was drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diafano.autoencoder import Autoencoder
from diafano.denoiser import Denoise, Network
from diafano.errors import UserError
from diafano.masks import Window, filled, hard, softened, window_around
from diafano.outpainting import SOFT_EDGE, enlarged, read_sides
from diafano.picture import as_rgb, fit, to_pixels
from diafano.request import Request, Settings
from diafano.request_parts import OverPicture
from diafano.tileable import tileable
from diafano.tiles import encode

STRENGTH = 0.75
"""A1111's and diffusers' choice (diffusers': 0.8) where none is given: the composition stays, the details do not."""


@dataclass(frozen=True)
class InitImage:
    """The picture to draw from."""

    latent: Tensor
    """(1 or batch, 4, h, w), float32: of the picture, or of its window, as it is before it is drawn over."""
    picture: Image.Image | None = None
    """RGB, of its own size; None where nothing of it is kept."""
    mask: Image.Image | None = None
    """L, of the picture's size: 255 where the new picture counts alone, 0 where the old one stays as it is."""
    window: Window | None = None
    """What of the picture is drawn, if there is a mask."""
    latent_mask: Tensor | None = None
    """(1, 1, h, w), true where the latent is drawn anew."""
    masked_latent: Tensor | None = None
    """(1, 4, h, w), of the picture with grey where it is drawn anew: what inpainting models are shown."""
    noise_inside: bool = False
    """Whether the start noise stands inside the mask instead of the latent."""

    def noised(self, noise: Tensor, sigma: float) -> Tensor:
        """The latent (batch, 4, h, w) to start from at `sigma`, with noise of that shape."""
        latent = self.latent.expand_as(noise)
        if self.noise_inside and self.latent_mask is not None:
            latent = torch.where(self.latent_mask, noise, latent)
        return latent + sigma * noise

    def keep(self, denoise: Denoise) -> Denoise:
        """`denoise`, but outside the mask the clean estimate is the picture's latent."""
        mask, latent = self.latent_mask, self.latent
        if mask is None:
            return denoise
        return lambda x, sigma: torch.where(mask, denoise(x, sigma), latent)

    def inpainting(self, unet: Network) -> Network:
        """The UNet of an inpainting model, which also sees the mask and what of the picture lies outside it."""
        assert self.latent_mask is not None and self.masked_latent is not None
        seen = torch.cat([self.latent_mask.float(), self.masked_latent], dim=1)

        def network(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            surroundings = seen.to(latent.dtype).expand(len(latent), -1, -1, -1)
            return unet(torch.cat([latent, surroundings], dim=1), timestep, text)

        return network

    def beside(self, picture: Image.Image) -> Image.Image:
        """Another picture of the same scene, scaled and cut as this one is drawn."""
        assert self.picture is not None
        whole = fit(as_rgb(picture), *self.picture.size)
        return whole if self.window is None else self.window.scaled(whole)

    def pasted(self, drawn: Image.Image) -> Image.Image:
        """The drawn picture inside the mask, the old one outside, bit for bit; between them a blend by the mask."""
        if self.mask is None or self.window is None or self.picture is None:
            return drawn
        return Image.composite(self.window.put_back(drawn, self.picture), self.picture, self.mask)


def check_no_picture_is_needed(settings: Settings, mask: Image.Image | None) -> None:
    """Raise UserError where there is a mask, or a setting that means something only for a picture to draw over."""
    needless = [name for name in OverPicture.model_fields if settings.get(name) not in (None, False)]
    if mask is not None or needless:
        raise UserError(
            f"{', '.join(needless) or 'a mask'}: that is for an image to draw over, so give one, or leave it out"
        )


def over_picture_settings(
    settings: Settings,
    picture: Image.Image,
    mask: Image.Image | None,
    nearest_size: Callable[[tuple[int, int]], tuple[int, int]],
    model_size: tuple[int, int],
) -> Settings:
    """The settings with what follows from the picture where they leave it open: the size to draw, strength, blur.

    Raises UserError for settings that need a mask where there is none, and for a mask of another size.
    """
    if settings.get("hires") is not None or settings.get("hires_size") is not None:
        raise UserError("a second pass follows a picture drawn from text: leave out the image, or hires")
    given: Settings = {**settings}
    sides = settings.get("outpaint")
    if mask is None:
        needless = [
            name
            for name in ("mask_blur", "masked_content", "invert_mask", "only_masked", "mask_padding")
            if settings.get(name) not in (None, False) and (sides is None or name == "invert_mask")
        ]
        if needless:
            raise UserError(f"{', '.join(needless)}: that is for a mask, so give one, or leave it out")
    elif mask.size != picture.size:
        raise UserError(
            f"the mask has {mask.size[0]}x{mask.size[1]} pixels and the picture {picture.size[0]}x{picture.size[1]}:"
            " make them of one size"
        )
    width, height = picture.size
    if sides is not None:
        left, top, right, bottom = given["outpaint"] = read_sides(sides)
        width, height = left + width + right, top + height + bottom
        if settings.get("mask_blur") is None:
            given["mask_blur"] = SOFT_EDGE
    if settings.get("size") is None:
        given["size"] = model_size if settings.get("only_masked") else nearest_size((width, height))
    if settings.get("strength") is None:
        given["strength"] = STRENGTH if sides is None else 1.0  # nothing of the repeated edges is to stay
    return given


def init_image(
    autoencoder: Autoencoder, request: Request, picture: Image.Image, mask: Image.Image | None = None
) -> InitImage:
    """The picture as the request says that it is to be drawn over."""
    picture = as_rgb(picture)
    if mask is not None:
        mask = hard(as_rgb(mask), inverted=request.invert_mask)
    if request.outpaint is not None:
        picture, mask = enlarged(picture, request.outpaint, mask)
    with tileable(request.tileable):
        return encode_init_image(
            autoencoder,
            picture,
            request.size,
            mask=mask,
            blur=request.mask_blur,
            content=request.masked_content,
            padding=request.mask_padding if request.only_masked else None,
            tiles=request.tiles,
        )


@torch.inference_mode()
def encode_init_image(
    autoencoder: Autoencoder,
    picture: Image.Image,
    size: tuple[int, int],
    *,
    mask: Image.Image | None = None,
    blur: float = 0.0,
    content: str = "original",
    padding: int | None = None,
    tiles: bool | None = None,
) -> InitImage:
    """`picture` as a start for pictures of `size` (width, height): scaled and cropped to it, and encoded.

    White in `mask` is drawn anew, black stays; `blur` is the radius, in pixels, of the soft edge that is laid around
    the white, outside it. `content` is one of `MASKED_CONTENT`. With `padding` the window is not the whole picture,
    but the mask and so many pixels around it.
    """
    to_latent = partial(encode, autoencoder, tiles=tiles)
    if mask is None:
        fitted = fit(picture, *size)
        return InitImage(to_latent(to_pixels(fitted)[None]), fitted)
    mask = hard(mask)
    soft = softened(mask, blur)
    window = Window((0, 0, *picture.size), size) if padding is None else window_around(soft, size, padding)
    # Of the white alone: what is drawn has to fit to the picture under the soft edge, or it would fade out there.
    touched = window.touched(mask)
    pixels = to_pixels(window.scaled(picture))
    latent = to_latent((to_pixels(window.scaled(filled(picture, mask))) if content == "fill" else pixels)[None])
    # A latent position is drawn anew if any of its pixels is.
    latent_mask = F.max_pool2d(touched, autoencoder.factor).to(latent.device) > 0
    if content == "latent nothing":
        latent = latent.masked_fill(latent_mask, 0.0)
    seen = to_latent(pixels[None] * (touched == 0))
    return InitImage(latent, picture, soft, window, latent_mask, seen, noise_inside=content == "latent noise")
