"""Drawing from a picture: image-to-image and inpainting are text-to-image with another start and a fixed surrounding.

    strength   which share of the steps is run: the start is the picture's latent, noised to the first of their sigmas
               (SDEdit, Meng et al. 2021, arXiv 2108.01073)
    mask       what is drawn anew; elsewhere the clean estimate of every step is the picture's own latent, so that the
               noisy latent there follows the picture's, whatever the sampler (Lugmayr et al. 2022, arXiv 2201.09865)

Both leave samplers, guidance and the UNet as they are.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from diafano.autoencoder import Autoencoder
from diafano.denoiser import Denoise
from diafano.errors import UserError
from diafano.picture import fit, to_pixels

STRENGTH = 0.75
"""A1111's and diffusers' choice (diffusers': 0.8) where none is given: the composition stays, the details do not."""


@dataclass(frozen=True)
class InitImage:
    """The picture to draw from."""

    picture: Image.Image
    """RGB, of the size that is drawn."""
    latent: Tensor
    """(1, 4, h, w), float32."""
    mask: Image.Image | None = None
    """L, of the picture's size: 255 where the new picture counts alone, 0 where the old one stays as it is."""
    latent_mask: Tensor | None = None
    """(1, 1, h, w), true where the latent is drawn anew."""
    masked_latent: Tensor | None = None
    """(1, 4, h, w), of the picture with grey where it is drawn anew: what inpainting models are shown."""

    def keep(self, denoise: Denoise) -> Denoise:
        """`denoise`, but outside the mask the clean estimate is the picture's latent."""
        mask, latent = self.latent_mask, self.latent
        if mask is None:
            return denoise
        return lambda x, sigma: torch.where(mask, denoise(x, sigma), latent)

    def pasted(self, drawn: Image.Image) -> Image.Image:
        """The drawn picture inside the mask, the old one outside, bit for bit; between them a blend by the mask."""
        return drawn if self.mask is None else Image.composite(drawn, self.picture, self.mask)


@torch.inference_mode()
def encode_init_image(
    autoencoder: Autoencoder,
    picture: Image.Image,
    size: tuple[int, int],
    *,
    mask: Image.Image | None = None,
    blur: float = 0.0,
) -> InitImage:
    """`picture` as a start for pictures of `size` (width, height): scaled and cropped to it, and encoded.

    White in `mask` is drawn anew, black stays; `blur` is the radius, in pixels, of the soft edge that is laid around
    the white, outside it. Raises UserError for a mask of another shape than the picture's.
    """
    if mask is not None and mask.size != picture.size:
        raise UserError(
            f"the mask has {mask.size[0]}x{mask.size[1]} pixels and the picture {picture.size[0]}x{picture.size[1]}:"
            " make them of one size"
        )
    if blur < 0:
        raise UserError(f"the mask cannot be blurred by {blur}: give 0 for a hard edge, or a number of pixels")
    fitted = fit(picture, *size)
    weights = autoencoder.encoder.conv_in.weight

    def encode(pixels: Tensor) -> Tensor:
        return autoencoder.encode(pixels[None].to(weights.device, weights.dtype)).mean.float()

    pixels = to_pixels(fitted)
    latent = encode(pixels)
    if mask is None:
        return InitImage(fitted, latent)
    hard = fit(mask.convert("RGB"), *size).convert("L").point(lambda value: 255 if value >= 128 else 0)
    soft = _softened(hard, blur)
    touched = torch.from_numpy(np.array(soft, np.float32))[None, None]
    # A latent position is drawn anew if any of its pixels is.
    latent_mask = F.max_pool2d(touched, autoencoder.factor).to(latent.device) > 0
    return InitImage(fitted, latent, soft, latent_mask, encode(pixels * (touched[0] == 0)))


def _softened(mask: Image.Image, radius: float) -> Image.Image:
    """White stays white, and fades out around itself within twice the radius."""
    if radius == 0:
        return mask
    blurred = mask.filter(ImageFilter.GaussianBlur(radius))
    grown = blurred.point(lambda value: min(255, 2 * value))
    return Image.composite(mask, grown, mask)
