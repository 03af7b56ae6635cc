"""Noise turning into the prompt: the clean estimates of a run at evenly spaced steps, decoded, side by side."""

import torch
from PIL import Image
from torch import Tensor

from diafano.errors import UserError
from diafano.pictures.pixels import grid, to_picture
from diafano.stable_diffusion import StableDiffusion


class Filmstrip:
    """Pass it (or call it) as `on_step`, then ask for its `picture`: a row a picture, the first step at the left."""

    def __init__(self, model: StableDiffusion, steps: int, frames: int = 8) -> None:
        """`frames` of a run of `steps` steps are kept, the first and the last among them; at most `steps`."""
        if frames < 1:
            raise UserError(f"a filmstrip of {frames} frames shows nothing: use 1 or more")
        frames = min(frames, steps)
        self._model = model
        self._wanted = (
            [round((steps - 1) * frame / (frames - 1)) for frame in range(frames)] if frames > 1 else [steps - 1]
        )
        # A row a batch, in it steps -> clean estimates (batch, 4, h, w).
        self._rows: list[dict[int, Tensor]] = []

    def __call__(self, step: int, sigma: float, noisy: Tensor, clean: Tensor) -> None:
        if step == 0:
            if self._rows and not all(bool(frame.isfinite().all()) for frame in self._rows[-1].values()):
                self._rows.pop()  # this is the run that takes its place
            self._rows.append({})
        if step in self._wanted:
            self._rows[-1][step] = clean.clone()

    @torch.inference_mode()
    def picture(self) -> Image.Image:
        """All rows as one picture."""
        if not self._rows:
            raise UserError("a filmstrip has no frames before a picture was drawn: pass it as on_step first")
        pictures = []
        for row in self._rows:
            # One by one: those of a second pass are larger.
            frames = [[to_picture(pixels) for pixels in self._model.decode(frame)] for frame in row.values()]
            pictures += [picture for frames_of_one in zip(*frames, strict=True) for picture in frames_of_one]
        return grid(pictures, columns=len(self._wanted))
