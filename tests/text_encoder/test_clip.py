"""CLIP's text encoder: what its structure implies first, then transformers' CLIPTextModel on the same weights."""

import pytest
import torch
import transformers

from diafano.errors import UserError
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder, quick_gelu, strip_text_model_prefix

SMALL = CLIPTextConfig(
    vocabulary=99, width=48, mlp_width=96, layers=3, heads=4, start_token=97, end_token=98, pad_token=98
)


def texts(config: CLIPTextConfig, seed: int = 0) -> torch.Tensor:
    """Three rows of 77 ids: a short text, one of 40, one that fills the row."""
    ids = torch.randint(1, config.start_token, (3, 77), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = config.start_token
    for row, end in enumerate((5, 40, 76)):
        ids[row, end:] = config.pad_token
        ids[row, end] = config.end_token
    return ids


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Fresh models have zero biases and unit norms, which would hide a bias left out or two norms swapped."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model.eval()


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def oracle(config: CLIPTextConfig) -> transformers.CLIPTextModel:
    return shaken(
        transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.positions,
                hidden_act=config.activation,
                bos_token_id=config.start_token,
                eos_token_id=config.end_token,
                pad_token_id=config.pad_token,
            )
        )
    )


def loaded(config: CLIPTextConfig, theirs: transformers.CLIPTextModel) -> CLIPTextEncoder:
    ours = CLIPTextEncoder(config)
    stored = theirs.state_dict()
    ours.load_state_dict({name: stored[old] for old, name in strip_text_model_prefix(stored).items()}, strict=True)
    return ours.eval()


def test_the_full_preset_has_vit_l_parameters() -> None:
    with torch.device("meta"):
        encoder = CLIPTextEncoder(CLIPTextConfig())
        embedded = encoder(torch.zeros(2, 77, dtype=torch.int64))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 123_060_480
    assert embedded.shape == (2, 77, 768)
    assert not list(encoder.buffers())


def test_no_token_sees_a_later_one() -> None:
    encoder = CLIPTextEncoder(SMALL).eval()
    ids = texts(SMALL)
    changed = ids.clone()
    changed[:, 30:] = 3
    with torch.no_grad():
        before, after = encoder(ids), encoder(changed)
    torch.testing.assert_close(before[:, :30], after[:, :30])
    assert not torch.allclose(before[:, 30:], after[:, 30:])


def test_the_final_norm_is_applied_to_every_skip() -> None:
    encoder = CLIPTextEncoder(SMALL).eval()
    for skip in (1, 2, 3):
        hidden = encoder(texts(SMALL), skip).detach()
        torch.testing.assert_close(hidden.mean(dim=-1), torch.zeros(3, 77), atol=1e-5, rtol=0)
        torch.testing.assert_close(hidden.var(dim=-1, correction=0), torch.ones(3, 77), atol=1e-2, rtol=0)


def test_pooled_takes_the_first_end_token() -> None:
    hidden = torch.arange(3 * 77, dtype=torch.float32).reshape(3, 77, 1)
    pooled = CLIPTextEncoder(SMALL).pooled(hidden, texts(SMALL))
    assert pooled.flatten().tolist() == [5, 77 + 40, 2 * 77 + 76]


def test_quick_gelu_is_near_gelu_but_not_it() -> None:
    x = torch.linspace(-5, 5, 101)
    difference = (quick_gelu(x) - torch.nn.functional.gelu(x)).abs().max()
    assert 0.01 < difference < 0.03


def test_gradients_reach_every_parameter() -> None:
    encoder = CLIPTextEncoder(SMALL)
    ids = texts(SMALL)
    encoder.pooled(encoder(ids), ids).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # softmax does not change when every key moves by the same amount
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hidden_states_and_pooled_are_transformers(activation: str) -> None:
    config = SMALL.model_copy(update={"activation": activation})
    theirs = oracle(config)
    ours, ids = loaded(config, theirs), texts(config)
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        hidden = ours(ids)
        assert relative_difference(hidden, expected.last_hidden_state) <= 1e-6
        assert relative_difference(ours.pooled(hidden, ids), expected.pooler_output) <= 1e-6
        for skip in (2, 3):  # transformers' hidden states come before the final norm
            layer = theirs.get_submodule("final_layer_norm")(expected.hidden_states[-skip])
            assert relative_difference(ours(ids, skip), layer) <= 1e-6


def test_bfloat16_stays_bfloat16_and_close() -> None:
    encoder = CLIPTextEncoder(SMALL).eval()
    with torch.no_grad():
        exact = encoder(texts(SMALL))
        rounded = encoder.to(torch.bfloat16)(texts(SMALL))
    assert rounded.dtype == torch.bfloat16
    assert relative_difference(rounded.float(), exact) < 0.05


def test_the_prefix_of_older_files_goes_and_the_rest_stays() -> None:
    names = ["text_model.embeddings.position_ids", "text_model.final_layer_norm.bias", "final_layer_norm.weight"]
    assert strip_text_model_prefix(names) == {
        "text_model.final_layer_norm.bias": "final_layer_norm.bias",
        "final_layer_norm.weight": "final_layer_norm.weight",
    }


def test_errors_name_the_value() -> None:
    encoder = CLIPTextEncoder(SMALL)
    for skip in (0, 4, -1):
        with pytest.raises(UserError, match=f"skip {skip} is not possible with 3 layers"):
            encoder(texts(SMALL), skip)
    with pytest.raises(UserError, match="78 tokens is longer than the text encoder's 77"):
        encoder(torch.zeros(1, 78, dtype=torch.int64))
    with pytest.raises(ValueError, match="width 48 cannot be split into 5 heads"):
        CLIPTextConfig(width=48, heads=5)
    with pytest.raises(ValueError, match="end_token 49407 is not among the 99 ids"):
        CLIPTextConfig(vocabulary=99, start_token=97, pad_token=98)
    with pytest.raises(ValueError, match="depth"):
        CLIPTextConfig(depth=3)  # type: ignore[call-arg]
