"""`diafano noise`: a picture drowning in noise, in pixels and as decoded latents."""

from pathlib import Path
from typing import Annotated

import typer

from diafano.cli import options as option
from diafano.cli.targets import replacing
from diafano.files import numbered

STRIP = Path("noise.png")
"""Where nobody says where."""


def command(
    picture: Annotated[Path, typer.Argument(help="A picture file.", metavar="PICTURE", show_default=False)],
    steps: Annotated[int, typer.Option(help="How many steps of noise to show.", metavar="N")] = 8,
    model: option.Model = None,
    seed: Annotated[int, typer.Option(help="Of the noise.", metavar="N")] = 0,
    dtype: option.DType = "auto",
    device: option.Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write. Default: noise.png, or the next noise-2.png, ... that is not there yet.",
            metavar="FILE",
        ),
    ] = None,
    revision: option.Revision = None,
) -> None:
    """Show a picture drowning in noise: noise is added in N steps until nothing else is left.

    Upper row: noise added to the pixels. Lower row: noise added to the latent, which the decoder then turns back into
    pixels. The first column is without noise.
    """
    import torch

    import diafano
    from diafano.errors import UserError
    from diafano.explain.noise_strip import filmstrip
    from diafano.pictures.files import check_target, read_picture, save_new_picture, save_picture
    from diafano.pictures.pixels import fit, grid, to_picture, to_pixels
    from diafano.request.fields import LARGEST_SEED

    check_target(STRIP if output is None else output)
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed {seed} is not possible: give a whole number from 0 to 2^64 - 1")
    clean = read_picture(picture)
    loaded = diafano.load(model, device=device, dtype=dtype, revision=revision)
    pixels = to_pixels(fit(clean, *loaded.card.size))[None]  # (1, 3, height, width)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.inference_mode():
        latent = loaded.autoencoder.encode(pixels.to(loaded.device, loaded.dtype)).mean.float().cpu()
        upper = filmstrip(loaded.schedule, pixels, steps + 1, lambda: torch.randn(pixels.shape, generator=generator))
        drowned = filmstrip(loaded.schedule, latent, steps + 1, lambda: torch.randn(latent.shape, generator=generator))
        lower = loaded.decode(torch.cat(drowned).to(loaded.device))
        pictures = [to_picture(frame[0]) for frame in upper] + [to_picture(frame) for frame in lower]
    strip = grid(pictures, columns=steps + 1)
    if output is None:
        print(save_new_picture(strip, numbered(STRIP)))
    else:
        print(replacing(output, lambda: save_picture(strip, output)))
