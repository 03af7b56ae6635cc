"""Layers on their own."""

import pytest
import torch

from diafano.networks.layers import attend


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_gradients_is_the_fused_one(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 7, 8), (2, 3, 7, 8), (2, 3, 7, 8))
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    with torch.no_grad():
        fused = attend(query, key, value, causal=causal)
    plain = attend(query.clone().requires_grad_(), key, value, causal=causal)
    assert torch.allclose(plain, fused, rtol=1e-12, atol=1e-12)


def test_attention_by_hand() -> None:
    query = torch.tensor([[[1.0, 0.0]]])
    key = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])
    value = torch.tensor([[[1.0], [0.0]]])
    expected = torch.tensor(2.0 / 2**0.5).sigmoid()  # the softmax of two scores, one of them 0
    for asked in (query, query.clone().requires_grad_()):
        assert attend(asked, key, value).item() == pytest.approx(expected.item())
