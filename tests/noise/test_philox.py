"""Philox against the numbers that its authors, and users of GPUs, have published."""

import math

import numpy as np
import pytest
import torch

from diafano.noise.philox import Philox, philox_4x32

# Random123's kat_vectors, "philox4x32 10": counter, key, expected.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

# torch.randn(3, 4, device="cuda") after torch.manual_seed(0), as A1111's documentation has it
CUDA_SEED_0 = [
    [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
    [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
    [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    first, second = words(key)
    found = philox_4x32(np.array(words(counter), dtype=np.uint64)[:, None], (first, second))
    assert found[:, 0].tolist() == words(expected)


def test_all_counters_at_once() -> None:
    counters = np.array([words(counter) for counter, _, _ in KNOWN], dtype=np.uint64).T
    together = philox_4x32(counters, (5, 6))
    for column in range(len(KNOWN)):
        alone = philox_4x32(counters[:, column : column + 1], (5, 6))
        assert together[:, column].tolist() == alone[:, 0].tolist()


def test_the_numbers_of_a_gpu() -> None:
    torch.testing.assert_close(Philox(0).normal((3, 4)), torch.tensor(CUDA_SEED_0), atol=2e-6, rtol=2e-6)


def test_normal_distribution() -> None:
    generator = Philox(2**40 + 7)
    numbers = torch.stack([generator.normal((100_000,)) for _ in range(3)]).double()
    count = numbers.numel()
    assert abs(numbers.mean()) < 4 / math.sqrt(count)
    assert abs(numbers.pow(2).mean() - 1) < 4 * math.sqrt(2 / count)
    assert abs(numbers.pow(3).mean()) < 4 * math.sqrt(15 / count)
    assert abs(numbers.pow(4).mean() - 3) < 4 * math.sqrt(96 / count)
    between = torch.corrcoef(numbers)  # the calls are independent
    assert float((between - torch.eye(3)).abs().max()) < 4 / math.sqrt(100_000)
    assert abs((numbers[0, 1:] * numbers[0, :-1]).mean()) < 4 / math.sqrt(100_000)


def test_seed_and_call_decide() -> None:
    generator, other = Philox(1), Philox(1)
    first, second = generator.normal((2, 8)), generator.normal((2, 8))
    assert torch.equal(other.normal((16,)), first.flatten()) and torch.equal(other.normal((2, 8)), second)
    assert not torch.equal(first, second)
    for seed in (2, 1 + 2**32):  # both halves of the seed
        assert not torch.equal(Philox(seed).normal((2, 8)), first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_torch_on_a_gpu_draws_the_same() -> None:
    ours, theirs = Philox(1234), torch.Generator("cuda").manual_seed(1234)
    for _ in range(3):
        expected = torch.randn((1, 4, 64, 64), generator=theirs, device="cuda").cpu()
        torch.testing.assert_close(ours.normal((1, 4, 64, 64)), expected, atol=1e-5, rtol=1e-5)
