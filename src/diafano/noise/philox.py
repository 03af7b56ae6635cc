"""Philox: the random numbers of an NVIDIA GPU, drawn on the CPU.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keeps no state but a
counter: number n of a seed is ten rounds of multiplying and mixing n with the seed. So what each of a GPU's threads
draws on its own can be drawn here all at once, and A1111's pictures, which start from a GPU's noise, start from the
same noise on any machine.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as 32-bit fractions
WORD = 2**32

Words = npt.NDArray[np.uint64]


def philox_4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Counters (4, n), each word below 2^32, and a key of two such words -> as many random words (4, n)."""
    first, second, third, fourth = (counter[row] for row in range(4))
    for step in range(ROUNDS):
        key_now = [np.uint64((word + step * growth) % WORD) for word, growth in zip(key, KEY_STEPS, strict=True)]
        one, other = first * np.uint64(MULTIPLIERS[0]), third * np.uint64(MULTIPLIERS[1])  # 64 bits each
        first, second, third, fourth = (
            (other >> np.uint64(32)) ^ second ^ key_now[0],
            other & np.uint64(WORD - 1),
            (one >> np.uint64(32)) ^ fourth ^ key_now[1],
            one & np.uint64(WORD - 1),
        )
    return np.stack([first, second, third, fourth])


class Philox:
    """What ``torch.Generator("cuda").manual_seed(seed)`` gives to ``torch.randn``, call by call.

    Number i of a call is made by the GPU's thread i from the counter (call, 0, i, 0). That holds for as many numbers
    as a GPU runs threads at once, 100,000 and more; a larger tensor's pattern depends on the GPU. Numbers agree with
    a GPU's within its rounding of logarithm and sine, about 1e-6.
    """

    def __init__(self, seed: int) -> None:
        """`seed` from 0 to 2^64 - 1."""
        self._key = (seed % WORD, seed // WORD)
        self._calls = 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Unit-normal numbers of that shape, float32, on the CPU."""
        count = math.prod(shape)
        counter = np.zeros((4, count), dtype=np.uint64)
        counter[0] = self._calls
        counter[2] = np.arange(count)
        self._calls += 1
        uniform = (philox_4x32(counter, self._key)[:2] + 0.5) / WORD  # within (0, 1), two words of the four
        # Box and Muller 1958: of the pair that two uniform numbers make, a GPU's thread uses the sine first.
        numbers = np.sqrt(-2.0 * np.log(uniform[0])) * np.sin(2.0 * math.pi * uniform[1])
        return torch.from_numpy(numbers.astype(np.float32).reshape(tuple(shape)))
