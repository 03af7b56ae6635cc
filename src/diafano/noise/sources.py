"""Where noise comes from: generators that a seed starts, torch's on the CPU and NVIDIA's."""

import torch

from diafano.noise.brownian import Draw
from diafano.noise.philox import Philox

__all__ = ["GENERATORS", "Draw", "cpu", "gpu"]


def cpu(seed: int) -> Draw:
    """torch's generator on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda shape: torch.randn(tuple(shape), generator=generator)


def gpu(seed: int) -> Draw:
    """torch's generator on an NVIDIA GPU."""
    return Philox(seed).normal


GENERATORS = {"CPU": cpu, "GPU": gpu}
"""By the names that A1111's setting RNG has for them ("NV" is another one for the second)."""
