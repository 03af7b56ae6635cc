"""Drawing from a picture: image-to-image, inpainting and outpainting are text-to-image with another start and a fixed
surrounding.

    strength   which share of the steps is run: the start is the picture's latent, noised to the first of their sigmas
               (SDEdit, Meng et al. 2021, arXiv 2108.01073)
    mask       what is drawn anew; elsewhere the clean estimate of every step is the picture's own latent, so that the
               noisy latent there follows the picture's, whatever the sampler (Lugmayr et al. 2022, arXiv 2201.09865)

Both leave samplers, guidance and the UNet as they are. With a mask the picture keeps its size, and its pixels outside
the mask their values: what was drawn is put back into it, however large it was drawn.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diafano.engine.tiles import encode
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.conditioning import Conditioning, Network
from diafano.networks.tileable import tileable
from diafano.pictures.masks import Window, as_mask, filled, hard, softened, tell_of, window_around
from diafano.pictures.outpainting import enlarged
from diafano.pictures.pixels import as_rgb, fit, to_pixels
from diafano.pictures.sides import Sides
from diafano.sampling.samplers.stepping import Denoise


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

        def network(latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            surroundings = seen.to(latent.dtype).expand(len(latent), -1, -1, -1)
            return unet(torch.cat([latent, surroundings], dim=1), timestep, conditioning)

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


def init_image(
    autoencoder: Autoencoder,
    picture: Image.Image,
    size: tuple[int, int],
    *,
    mask: Image.Image | None = None,
    inverted: bool = False,
    outpaint: Sides | None = None,
    blur: float = 0.0,
    content: str = "original",
    padding: int | None = None,
    tiles: bool | None = None,
    axes: str | None = None,
) -> InitImage:
    """`picture` as a start for pictures of `size` (width, height), see `encode_init_image`.

    `mask` may have any mode, any size and soft edges; with `inverted` its black is drawn anew. `outpaint` is what is
    added on each side, in pixels; `axes` are those along which the picture continues at its opposite edge (`tileable`).
    """
    picture = as_rgb(picture)
    if mask is not None:
        if mask.size != picture.size:
            mask = as_mask(mask).resize(picture.size, Image.Resampling.BOX)
        mask = hard(mask, inverted=inverted)
        tell_of(mask, inverted=inverted)
    if outpaint is not None:
        picture, mask = enlarged(picture, outpaint, mask)
    with tileable(axes):
        return encode_init_image(
            autoencoder, picture, size, mask=mask, blur=blur, content=content, padding=padding, tiles=tiles
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
