"""Upscalers: A1111's names, torch's and Pillow's arithmetic."""

import pytest
import torch

from diafano.errors import UserError
from diafano.pictures.upscaling import UPSCALERS, covering, cut_out, find_upscaler, upscaled_latent

LATENT = [upscaler for upscaler in UPSCALERS.values() if upscaler.mode is not None]


@pytest.mark.parametrize("upscaler", LATENT, ids=lambda upscaler: upscaler.label)
def test_upscaling_a_latent_by_one_is_the_identity(upscaler: object) -> None:
    latent = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(upscaled_latent(latent, upscaler, (12, 8)), latent)  # type: ignore[arg-type]


def test_a_latent_by_two_by_hand() -> None:
    latent = torch.tensor([[[[0.0, 4.0]]]])
    assert upscaled_latent(latent, find_upscaler("latent-nearest"), (4, 2))[0, 0].tolist() == [[0, 0, 4, 4]] * 2
    assert upscaled_latent(latent, find_upscaler("Latent"), (4, 1))[0, 0].tolist() == [[0, 1, 3, 4]]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("latent", "Latent"),
        ("LATENT (Bicubic Antialiased)", "Latent (bicubic antialiased)"),
        ("latent_nearest_exact", "Latent (nearest-exact)"),
        ("lanczos", "Lanczos"),
    ],
)
def test_names_are_a1111s_however_they_are_written(name: str, label: str) -> None:
    assert find_upscaler(name).label == label
    with pytest.raises(UserError, match=r"unknown upscaler 'ESRGAN'.*Latent \(nearest\)"):
        find_upscaler("ESRGAN")


def test_a_size_of_another_shape_is_covered_and_cut() -> None:
    assert covering((512, 512), (768, 600)) == (768, 768)
    assert covering((512, 768), (512, 512)) == (512, 768)
    assert covering((64, 64), (64, 128)) == (128, 128)
    latent = torch.arange(96.0).reshape(1, 1, 96, 1).expand(1, 1, 96, 96)
    cut = cut_out(latent, (96, 75))  # A1111 leaves out 21 // 2 rows above and 22 // 2 below
    assert (cut[0, 0, 0, 0].item(), cut[0, 0, -1, 0].item(), cut.shape[-1]) == (10, 84, 96)
