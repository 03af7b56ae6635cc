"""Chunks and weights of a prompt's embeddings."""

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.prompt_embedding import Weighting, chunks_of, embed_prompt


@pytest.fixture
def parts(tiny_model: StableDiffusion) -> StableDiffusion:
    return tiny_model


def embed(model: StableDiffusion, text: str, weighting: Weighting = "a1111") -> Tensor:
    with torch.no_grad():
        return embed_prompt(text, model.tokenizer, model.text_encoder, weighting=weighting)


def words(count: int, first: int = 0) -> list[str]:
    return [str(number % 10) for number in range(first, first + count)]  # CLIP splits numbers into single digits


def test_a_plain_prompt_is_one_chunk_as_the_tokenizer_gives_it(parts: StableDiffusion) -> None:
    text = "a red apple, on blue"
    (chunk,) = chunks_of(parts.tokenizer, text)
    assert list(chunk.ids) == parts.tokenizer(text)[0].tolist()
    assert not chunk.is_weighted
    with torch.no_grad():
        assert torch.equal(embed(parts, text), parts.text_encoder(parts.tokenizer(text))[0])


def test_a_long_prompt_loses_nothing(parts: StableDiffusion) -> None:
    text = " ".join(words(200))
    chunks = chunks_of(parts.tokenizer, text)
    assert [len(chunk.ids) for chunk in chunks] == [77] * 3
    own = {parts.tokenizer.start_token, parts.tokenizer.end_token, parts.tokenizer.pad_token}
    kept = [token for chunk in chunks for token in chunk.ids if token not in own]
    assert kept == parts.tokenizer.encode(text)
    assert embed(parts, text).shape == (3 * 77, parts.text_encoder.config.width)


def length_of_first(parts: StableDiffusion, text: str) -> int:
    ids = chunks_of(parts.tokenizer, text)[0].ids
    return ids.index(parts.tokenizer.end_token) - 1


@pytest.mark.parametrize(("comma", "expected"), [(54, 75), (55, 56), (70, 71), (74, 75), (75, 75)])
def test_a_full_chunk_ends_at_a_comma_that_is_near(parts: StableDiffusion, comma: int, expected: int) -> None:
    text = " ".join([*words(comma), ",", *words(40)])
    assert length_of_first(parts, text) == expected


def test_break_fills_a_chunk_up(parts: StableDiffusion) -> None:
    chunks = chunks_of(parts.tokenizer, "1 2 BREAK 3")
    assert [chunk.ids.index(parts.tokenizer.end_token) for chunk in chunks] == [3, 2]


def test_weights_stand_at_their_tokens(parts: StableDiffusion) -> None:
    (chunk,) = chunks_of(parts.tokenizer, "1 (2 3:1.5) 4")
    assert chunk.weights[:6] == (1.0, 1.0, 1.5, 1.5, 1.0, 1.0)
    assert set(chunk.weights[6:]) == {1.0}


def test_a1111_scales_and_keeps_the_mean(parts: StableDiffusion) -> None:
    parts = copy.deepcopy(parts)
    cast(Any, parts.text_encoder).final_layer_norm.bias.data.fill_(
        0.3
    )  # a fresh one leaves a mean of nothing but rounding
    plain, heavy = embed(parts, "1 2"), embed(parts, "1 (2:1.7)")
    assert heavy.mean().item() == pytest.approx(plain.mean().item(), rel=1e-4)
    ratio = heavy / plain
    assert torch.allclose(ratio[2] / ratio[1], torch.full_like(ratio[2], 1.7), rtol=1e-4)


def test_comfyui_leads_from_the_empty_prompt(parts: StableDiffusion) -> None:
    plain, empty = embed(parts, "1 2"), embed(parts, "")
    heavy = embed(parts, "1 (2:1.7)", "comfyui")
    assert torch.allclose(heavy[2], empty[2] + 1.7 * (plain[2] - empty[2]), atol=1e-6)
    assert torch.equal(heavy[1], plain[1])
    assert torch.allclose(embed(parts, "(1 2:0)", "comfyui")[1:3], empty[1:3], atol=1e-6)


@pytest.mark.parametrize("weighting", ["a1111", "comfyui"])
def test_weight_one_changes_nothing(parts: StableDiffusion, weighting: Weighting) -> None:
    assert torch.equal(embed(parts, "1 (2:1.0) 3", weighting), embed(parts, "1 2 3", weighting))
