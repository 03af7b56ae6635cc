"""`diafano noise`: a picture drowning in noise, in pixels and as decoded latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def noise(
    picture: Path, *, steps: int, source: str | None, seed: int, loading: Mapping[str, Any], output: Path
) -> None:
    """Write a strip of two rows and steps + 1 columns, the first without noise, the last nothing but noise.

    `loading` are options of `diafano.load`.
    """
    import torch

    import diafano
    from diafano.errors import UserError
    from diafano.explain.noise_strip import filmstrip
    from diafano.pictures.files import check_target, read_picture, save_picture
    from diafano.pictures.pixels import fit, grid, to_picture, to_pixels

    check_target(output)
    if not 0 <= seed < 2**63:
        raise UserError(f"seed {seed} is not possible: give a whole number from 0 to 2^63 - 1")
    clean = read_picture(picture)
    model = diafano.load(source, **loading)
    pixels = to_pixels(fit(clean, *model.card.size))[None]  # (1, 3, height, width)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.inference_mode():
        latent = model.autoencoder.encode(pixels.to(model.device, model.dtype)).mean.float().cpu()
        upper = filmstrip(model.schedule, pixels, steps + 1, lambda: torch.randn(pixels.shape, generator=generator))
        drowned = filmstrip(model.schedule, latent, steps + 1, lambda: torch.randn(latent.shape, generator=generator))
        lower = model.decode(torch.cat(drowned).to(model.device))
        pictures = [to_picture(frame[0]) for frame in upper] + [to_picture(frame) for frame in lower]
    save_picture(grid(pictures, columns=steps + 1), output)
    print(output)
