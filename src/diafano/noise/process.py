"""The border between what samplers hold, ``x = clean + sigma * noise``, and what a network was trained on.

Everything beyond it (samplers, guidance, inpainting, watching) speaks of sigma alone; everything on this side (a
network's input, its timestep, what it predicts) is a process's own. `schedule.NoiseSchedule` is that of Stable
Diffusion 1, 2 and XL; flow matching, with ``sigma = t / (1 - t)``, fits the same border.
"""

from typing import Protocol

from torch import Tensor


class Process(Protocol):
    """How noise was put on clean latents of unit variance when a network was trained."""

    @property
    def sigma_min(self) -> float:
        """Smallest noise level that was trained; a run may end at 0 all the same."""
        ...

    @property
    def sigma_max(self) -> float:
        """Largest noise level that was trained."""
        ...

    def sigma_of(self, timestep: float) -> float:
        """Noise level of a timestep, as the network counts them."""
        ...

    def timestep_of(self, sigma: float) -> float:
        """Inverse of `sigma_of`; a sigma beyond the trained range gets its nearest end."""
        ...

    def input_scale(self, sigma: float) -> float:
        """EDM's ``c_in``: what x is multiplied by before the network sees it."""
        ...

    def clean(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        """The clean estimate that the network's `prediction` for ``input_scale * x`` means."""
        ...

    def prediction(self, x: Tensor, sigma: float, clean: Tensor) -> Tensor:
        """The prediction for `x` that means this clean estimate; `clean` the other way round, for sigmas above 0."""
        ...

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees in training: `clean` and `noise` (batch, ...) mixed at each row's timestep (batch,)."""
        ...

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What it is to predict from that."""
        ...

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """x at `sigma` of which the network sees exactly `noise`: where a run from pure noise starts."""
        ...

    def finish(self, x: Tensor, sigma: float) -> Tensor:
        """The latent to decode after a run that ended at `sigma`: x itself at 0."""
        ...
