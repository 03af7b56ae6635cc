"""BERT's encoder: what its structure implies first, then transformers' BertModel on the same weights."""

import pytest
import torch
import transformers

from diafano.errors import UserError
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder

SMALL = BERTConfig(
    vocabulary=99, width=48, mlp_width=96, layers=3, heads=4, positions=80, pooler=True, start_token=97, end_token=98
)


def texts() -> torch.Tensor:
    """Three rows of 77 ids: a short text, one of 40, one that fills the row."""
    ids = torch.randint(1, SMALL.start_token, (3, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = SMALL.start_token
    for row, end in enumerate((5, 40, 76)):
        ids[row, end:] = SMALL.pad_token
        ids[row, end] = SMALL.end_token
    return ids


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def oracle() -> transformers.BertModel:
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=SMALL.vocabulary,
            hidden_size=SMALL.width,
            intermediate_size=SMALL.mlp_width,
            num_hidden_layers=SMALL.layers,
            num_attention_heads=SMALL.heads,
            max_position_embeddings=SMALL.positions,
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # fresh models have zero biases and unit norms, which would hide a bias left out
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model.eval()


@pytest.fixture(scope="module")
def ours(oracle: transformers.BertModel) -> BERTTextEncoder:
    model = BERTTextEncoder(SMALL)
    model.load_state_dict(oracle.state_dict(), strict=True)
    return model.eval()


def test_the_full_preset_gives_77_by_768() -> None:
    with torch.device("meta"):
        encoder = BERTTextEncoder(BERTConfig())
        embedded = encoder(torch.zeros(2, 77, dtype=torch.int64))
        with_pooler = BERTTextEncoder(BERTConfig(pooler=True))
    assert embedded.shape == (2, 77, 768)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 108_891_648
    assert sum(parameter.numel() for parameter in with_pooler.parameters()) == 109_482_240  # bert-base-uncased
    assert not list(encoder.buffers())


def test_every_token_sees_the_whole_text_and_no_padding() -> None:
    encoder, ids = BERTTextEncoder(SMALL).eval(), texts()
    changed = ids.clone()
    changed[1, 39] = 3
    with torch.no_grad():
        before, after = encoder(ids), encoder(changed)
        alone = encoder(ids[:1, :6])  # row 0 without its padding
    assert (before[1, :40] - after[1, :40]).abs().amax(dim=-1).min() > 0
    torch.testing.assert_close(before[:1, :6], alone)
    torch.testing.assert_close(before[2], after[2])


def test_each_row_of_the_output_is_normed() -> None:
    hidden = BERTTextEncoder(SMALL).eval()(texts()).detach()
    torch.testing.assert_close(hidden.mean(dim=-1), torch.zeros(3, 77), atol=1e-5, rtol=0)


def test_hidden_states_and_pooled_are_transformers(ours: BERTTextEncoder, oracle: transformers.BertModel) -> None:
    ids = texts()
    mask = ids != SMALL.pad_token
    with torch.no_grad():
        expected = oracle(ids, attention_mask=mask.long(), output_hidden_states=True)
        hidden = ours(ids)
        assert relative_difference(hidden, expected.last_hidden_state) <= 1e-6
        assert relative_difference(ours.pooled(hidden, ids), expected.pooler_output) <= 1e-6
        for skip in (2, 3):
            assert relative_difference(ours(ids, skip), expected.hidden_states[-skip]) <= 1e-6


def test_mask_and_token_types_are_transformers(ours: BERTTextEncoder, oracle: transformers.BertModel) -> None:
    ids = texts()
    types = (torch.arange(77) > 20).long().expand(3, -1)
    with torch.no_grad():
        everything = torch.ones_like(ids)
        expected = oracle(ids, attention_mask=everything, token_type_ids=types).last_hidden_state
        assert relative_difference(ours(ids, mask=everything, token_types=types), expected) <= 1e-6
        assert relative_difference(ours(ids, mask=everything), expected) > 1e-2


def test_without_a_pooler_pooled_is_the_first_token() -> None:
    encoder = BERTTextEncoder(SMALL.model_copy(update={"pooler": False}))
    assert not any("pooler" in name for name in encoder.state_dict())
    hidden = torch.randn(3, 77, 48)
    assert torch.equal(encoder.pooled(hidden, texts()), hidden[:, 0])


def test_errors_name_the_value() -> None:
    encoder = BERTTextEncoder(SMALL)
    with pytest.raises(UserError, match="Skip 4 is not possible with 3 layers"):
        encoder(texts(), 4)
    with pytest.raises(UserError, match="81 tokens is longer than the text encoder's 80"):
        encoder(torch.zeros(1, 81, dtype=torch.int64))
    with pytest.raises(ValueError, match="width 48 cannot be split into 5 heads"):
        BERTConfig(width=48, heads=5)
    with pytest.raises(ValueError, match="end_token 102 is not among the 99 ids"):
        BERTConfig(vocabulary=99, start_token=97)
