"""A latent drowning in noise, in consecutive steps: the additive noise by itself."""

from torch import Tensor

from diafano.errors import UserError
from diafano.noise.schedule import NoiseSchedule, NoiseSource


def filmstrip(schedule: NoiseSchedule, clean: Tensor, frames: int, noise_source: NoiseSource) -> list[Tensor]:
    """A latent (or picture) drowning: `frames` tensors, the first clean, the last at the last timestep.

    The frames are evenly spaced in time and consecutive: each holds the noise of the one before it.
    """
    if frames < 2 or frames > len(schedule):
        raise UserError(f"{frames} frames do not make a filmstrip: use 2 to {len(schedule)}")
    last = len(schedule) - 1
    timesteps = [round(last * frame / (frames - 1)) for frame in range(1, frames)]
    return [clean, *schedule.add_noise_in_steps(clean, timesteps, noise_source)]
