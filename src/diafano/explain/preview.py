"""Previews: what a picture looks like so far, while it is drawn.

    preview = Preview(model, "so_far.png", decoder=load_tiny_decoder(None, model))
    model.generate("a fox", on_step=preview)

Shown is each step's clean estimate, through a tiny decoder (`networks.tiny_decoder`), or through the model's own one,
which takes as long as one or two steps: then less often.
"""

import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diafano.errors import UserError, note
from diafano.networks.tiny_decoder import TinyDecoder
from diafano.pictures.files import check_target, save_picture
from diafano.pictures.pixels import grid, to_picture
from diafano.stable_diffusion import StableDiffusion

EVERY, EVERY_BY_OWN_DECODER = 1, 10
"""Steps from one preview to the next, where nothing else is said."""


@torch.inference_mode()
def preview_pictures(
    model: StableDiffusion, clean: Tensor, decoder: TinyDecoder | None = None
) -> list[Image.Image] | None:
    """What `on_step` gets as clean estimate, (batch, 4, h, w), as pictures; None where it is not finite.

    By `decoder`, or by the model's own.
    """
    if not bool(clean.isfinite().all()):
        return None
    pixels = model.decode(clean) if decoder is None else iter(decoder.decode(clean))
    return [to_picture(one) for one in pixels]


class Preview:
    """Pass it (or call it) as `on_step`: it writes a file, anew in every so many steps; a batch as one sheet.

    The file is whole at any time. Where it cannot be written any more, a note says so, and drawing goes on.
    """

    def __init__(
        self,
        model: StableDiffusion,
        path: str | os.PathLike[str],
        *,
        every: int | None = None,
        decoder: TinyDecoder | None = None,
    ) -> None:
        """`every` is 1 or more; None is every step with a tiny `decoder` and every 10th without.

        Raises UserError where no picture can be written to `path`.
        """
        usual = EVERY_BY_OWN_DECODER if decoder is None else EVERY
        self.every = usual if every is None else every
        if self.every < 1:
            raise UserError(f"a preview every {self.every} steps is not possible: give 1 or more")
        check_target(path)
        self.path = Path(path)
        self._model, self._decoder = model, decoder

    def __call__(self, step: int, sigma: float, noisy: Tensor, clean: Tensor) -> None:
        if step % self.every == 0:
            pictures = preview_pictures(self._model, clean, self._decoder)
            if pictures is not None:
                try:
                    save_picture(grid(pictures), self.path)
                except UserError as error:  # the picture that is drawn must not end with what shows it
                    note(f"the preview is not up to date: {error}")
