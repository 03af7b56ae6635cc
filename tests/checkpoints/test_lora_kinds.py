"""What changes the meaning of a LoRA's matrices: kinds of updates, alphas outside the tensors, what is refused by name.

PEFT and, where it is installed, LyCORIS are the oracles: their own modules make the file and say the merged weights.
"""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import diafano
from diafano.checkpoints.lora import Loras
from diafano.checkpoints.lora_tensors import ROLES, UNREADABLE
from diafano.errors import UserError
from diafano.stable_diffusion import StableDiffusion
from helpers import told

CASES = Path(__file__).parents[1] / "cases"
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
NORM = "down_blocks.0.resnets.0.norm1"
FLAT = {name: f"lora_unet_{name.replace('.', '_')}" for name in (LINEAR, CONV, NORM)}


@pytest.fixture
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    return copy.deepcopy(tiny_model)


def add(model: StableDiffusion, tensors: Mapping[str, Tensor], path: Path, **options: Any) -> Loras:
    metadata = options.pop("metadata", None)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    loras = Loras(model)
    loras.add(path, **options)
    return loras


def weight_of(model: StableDiffusion, name: str) -> Tensor:
    layer: Any = model.unet.get_submodule(name)
    weight: Tensor = layer.weight
    return weight.detach()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# ---- against PEFT

PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "alpha": ("LoraConfig", {"lora_alpha": 16}),
    "rank-stabilized": ("LoraConfig", {"lora_alpha": 16, "use_rslora": True}),
    "alpha by pattern": ("LoraConfig", {"alpha_pattern": {"to_q": 3, "conv1": 40}}),
    "alpha by expression": ("LoraConfig", {"alpha_pattern": {r".*attn\d\.to_q": 3}}),
    "rank by pattern": ("LoraConfig", {"rank_pattern": {"attn1.to_q": 2}, "lora_alpha": 12}),
    "biases of its own": ("LoraConfig", {"lora_bias": True, "lora_alpha": 12, "target_modules": ["to_out.0"]}),
    "DoRA": ("LoraConfig", {"use_dora": True, "lora_alpha": 12}),
    "LoHa": ("LoHaConfig", {"alpha": 12}),
    "LoHa, taken apart": ("LoHaConfig", {"alpha": 12, "use_effective_conv2d": True}),
    "LoKr": ("LoKrConfig", {"alpha": 12}),
    "LoKr, both": ("LoKrConfig", {"alpha": 12, "decompose_both": True, "r": 1}),
    "LoKr, whole": ("LoKrConfig", {"alpha": 12, "r": 64}),
    "LoKr, taken apart": ("LoKrConfig", {"alpha": 12, "r": 1, "use_effective_conv2d": True}),
}


@pytest.mark.parametrize("beside", [True, False], ids=["configuration beside", "metadata"])
@pytest.mark.parametrize("kind", PEFT)
def test_peft_merges_the_same(model: StableDiffusion, tmp_path: Path, kind: str, beside: bool) -> None:
    import peft

    name, settings = PEFT[kind]
    config = getattr(peft, name)(**{"r": 4, "target_modules": ["to_q", "conv1"], **settings})
    oracle: Any = peft.inject_adapter_in_model(config, copy.deepcopy(model.unet))
    torch.manual_seed(2)
    for parameter_name, parameter in oracle.named_parameters():
        if parameter.requires_grad:
            change = torch.randn_like(parameter)
            parameter.data = parameter.data.abs() + 0.5 if "magnitude" in parameter_name else 0.3 * change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes biases for shards
        tensors = peft.get_peft_model_state_dict(oracle)
    said = {key: sorted(one) if isinstance(one, set) else one for key, one in config.to_dict().items()}
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps(said))
        add(
            model,
            {f"base_model.model.{key}": one for key, one in tensors.items()},
            tmp_path / "adapter_model.safetensors",
        )
    else:
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in said.items()})}
        add(model, {f"unet.{key}": one for key, one in tensors.items()}, tmp_path / "x.safetensors", metadata=metadata)
    changed = 0
    for path, layer in oracle.named_modules():
        if hasattr(layer, "merge") and hasattr(layer, "base_layer"):
            layer.merge()
            ours = model.unet.get_submodule(path)
            for leaf, wanted in layer.base_layer.named_parameters():
                assert torch.allclose(getattr(ours, leaf), wanted, atol=2e-5), (path, leaf)
            changed += 1
    assert changed > 3


# ---- against LyCORIS

LYCORIS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LoCon": ("locon", "LoConModule", {}),
    "LoCon, taken apart": ("locon", "LoConModule", {"use_tucker": True}),
    "LoCon, rank-stabilized": ("locon", "LoConModule", {"rs_lora": True}),
    "DoRA of columns": ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "DoRA of rows": ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    "LoHa": ("loha", "LohaModule", {}),
    "LoHa, taken apart": ("loha", "LohaModule", {"use_tucker": True}),
    "LoHa, decomposed": ("loha", "LohaModule", {"weight_decompose": True}),
    "LoKr": ("lokr", "LokrModule", {}),
    "LoKr, both": ("lokr", "LokrModule", {"decompose_both": True, "lora_dim": 1}),
    "LoKr, whole": ("lokr", "LokrModule", {"full_matrix": True}),
    "LoKr, taken apart": ("lokr", "LokrModule", {"use_tucker": True, "lora_dim": 1}),
    "LoKr, decomposed": ("lokr", "LokrModule", {"weight_decompose": True}),
    "full": ("full", "FullModule", {}),
    "norm": ("norms", "NormModule", {}),
}


@pytest.mark.parametrize("where", [LINEAR, CONV, NORM])
@pytest.mark.parametrize("kind", LYCORIS)
def test_lycoris_merges_the_same(model: StableDiffusion, tmp_path: Path, kind: str, where: str) -> None:
    module, name, settings = LYCORIS[kind]
    if (kind == "norm") != (where == NORM):
        pytest.skip("norms are for norms")
    made = getattr(pytest.importorskip(f"lycoris.modules.{module}"), name)
    layer: Any = copy.deepcopy(model.unet.get_submodule(where))
    size = {} if kind in ("norm", "full") else {"lora_dim": 2, "alpha": 3, **settings}
    if module in ("loha", "lokr"):
        size["alpha"] = size["lora_dim"]  # its merging, unlike its drawing, multiplies by alpha / rank twice
    adapter = made(FLAT[where], layer, 1.0, **size)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in adapter.named_parameters():
            change = torch.randn_like(parameter)
            if parameter_name != "scalar":
                parameter.copy_(change.abs() + 0.5 if "dora" in parameter_name else 0.3 * change)
        adapter.scalar = torch.tensor(1.0)  # its files have it within the matrices
        tensors = {f"{FLAT[where]}.{key}": one.clone() for key, one in adapter.state_dict().items()}
        if kind != "full":
            try:
                weight, bias = adapter.get_merged_weight(1.0)
            except RuntimeError as error:
                pytest.skip(f"LyCORIS does not merge it itself: {error}")
        else:
            weight, bias = layer.weight + adapter.weight, None if adapter.bias is None else layer.bias + adapter.bias
            tensors = {f"{FLAT[where]}.diff": adapter.weight.data.clone()}
            if bias is not None:
                tensors[f"{FLAT[where]}.diff_b"] = adapter.bias.data.clone()
    add(model, {key: one for key, one in tensors.items() if not key.endswith(".scalar")}, tmp_path / "x.safetensors")
    ours: Any = model.unet.get_submodule(where)
    assert torch.allclose(ours.weight, weight.reshape(ours.weight.shape), atol=2e-5)
    assert not torch.allclose(ours.weight, layer.weight, atol=1e-3)
    if bias is not None:
        assert torch.allclose(ours.bias, bias, atol=1e-5)


# ---- by hand


def test_norms_biases_and_whole_differences_are_put_in_and_taken_out(model: StableDiffusion, tmp_path: Path) -> None:
    tensors = {f"{FLAT[CONV]}.diff": random(8, 8, 3, 3), f"{FLAT[CONV]}.diff_b": random(8)}
    tensors |= {f"{FLAT[NORM]}.w_norm": random(8), f"{FLAT[NORM]}.b_norm": random(8) + 1}
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    loras = add(model, tensors, tmp_path / "x.safetensors", strength=0.5)
    wanted = zip((f"{CONV}.weight", f"{CONV}.bias", f"{NORM}.weight", f"{NORM}.bias"), tensors.values(), strict=True)
    for name, change in wanted:
        assert torch.allclose(model.unet.state_dict()[name], before[name] + 0.5 * change, atol=1e-6), name
    loras.clear()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.unet.state_dict().items())


def test_a_dora_at_half_strength_is_half_way(model: StableDiffusion, tmp_path: Path) -> None:
    weight = weight_of(model, LINEAR).clone()
    down, up, lengths = random(2, 8), random(8, 2), random(8, 1).abs() + 0.5
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": lengths}
    add(model, {f"{FLAT[LINEAR]}.{key}": one for key, one in tensors.items()}, tmp_path / "x.safetensors", strength=0.5)
    whole = weight + up @ down
    whole = whole * lengths / whole.norm(dim=1, keepdim=True)
    assert torch.allclose(weight_of(model, LINEAR), (weight + whole) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "conv", "linear"),
    [(None, 0.75, 0.75), ({"conv_alpha": "1"}, 0.25, 0.75), ({"rs_lora": "True"}, 1.5, 1.5)],
)
def test_kohyas_alpha_in_the_metadata_alone(
    model: StableDiffusion, tmp_path: Path, arguments: dict[str, str] | None, conv: float, linear: float
) -> None:
    metadata = {"ss_network_dim": "4", "ss_network_alpha": "3.0"}
    metadata |= {} if arguments is None else {"ss_network_args": json.dumps(arguments)}
    pairs = {LINEAR: (random(4, 8), random(8, 4)), CONV: (random(4, 8, 3, 3), random(8, 4, 1, 1))}
    before = {name: weight_of(model, name).clone() for name in pairs}
    tensors = {
        f"{FLAT[name]}.lora_{role}.weight": one
        for name, pair in pairs.items()
        for role, one in zip(("down", "up"), pair, strict=True)
    }
    add(model, tensors, tmp_path / "x.safetensors", metadata=metadata)
    for name, scale in ((LINEAR, linear), (CONV, conv)):
        change = (pairs[name][1].flatten(1) @ pairs[name][0].flatten(1)).reshape(before[name].shape)
        assert torch.allclose(weight_of(model, name), before[name] + scale * change, atol=1e-5), name


# ---- refused by name

PAIR = {f"unet.{LINEAR}.lora_A.weight": random(2, 8), f"unet.{LINEAR}.lora_B.weight": random(8, 2)}


@pytest.mark.parametrize(
    "said",
    [
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "loftq"},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"layer_replication": [[0, 4]]},
        {"alora_invocation_tokens": [1]},
        {"use_qalora": True},
        {"arrow_config": {"top_k": 3}},
        {"modules_to_save": ["conv_in"]},
        {"something_newer": 2},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_done_is_named(model: StableDiffusion, tmp_path: Path, said: dict[str, Any]) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in said.items()})}
    ((key, _),) = said.items()
    with pytest.raises(UserError, match=f"{key} = "):
        add(model, PAIR, tmp_path / "x.safetensors", metadata=metadata)
    with told(f"{key} = "):
        add(model, PAIR, tmp_path / "x.safetensors", metadata=metadata, allow_partial=True)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ("no JSON", "no JSON object"),
        (json.dumps({"unet.use_dora": True}), "is a DoRA and has no magnitudes"),
        (json.dumps({"unet.lora_alpha": "many"}), "'many', which is no number"),
        (json.dumps({"unet.alpha_pattern": {"(": 2}}), "cannot be told"),
        (json.dumps({"unet.alpha_pattern": {"(a+)+x": 2}}), "cannot be told"),
    ],
)
def test_a_broken_setting_is_one_sentence(model: StableDiffusion, tmp_path: Path, said: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        add(model, PAIR, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": said}, allow_partial=True)


KINDS: dict[str, tuple[str, str]] = {
    "oft_blocks": ("an OFT", f"{FLAT[LINEAR]}.oft_blocks"),
    "oft_diag": ("an OFT", f"{FLAT[LINEAR]}.oft_diag"),
    "OFT of PEFT": ("an OFT", f"unet.{LINEAR}.oft_R.weight"),
    "BOFT of PEFT": ("a BOFT", f"unet.{LINEAR}.boft_R"),
    "GLoRA": ("a GLoRA", f"{FLAT[LINEAR]}.a1.weight"),
    "IA3": (r"an \(IA\)3", f"{FLAT[LINEAR]}.on_input"),
    "IA3 of PEFT": (r"an \(IA\)3", f"base_model.model.{LINEAR}.ia3_l"),
    "T-LoRA": ("a T-LoRA", f"{FLAT[LINEAR]}.q_layer.weight"),
    "scalar": ("trained scalars", f"{FLAT[LINEAR]}.scalar"),
    "VeRA": ("a VeRA", f"base_model.model.{LINEAR}.vera_lambda_b"),
    "AdaLoRA": ("an AdaLoRA", f"base_model.model.{LINEAR}.lora_E"),
    "FourierFT": ("a FourierFT", f"base_model.model.{LINEAR}.fourierft_spectrum"),
    "HRA": ("an HRA", f"base_model.model.{LINEAR}.hra_u"),
    "MiSS": ("a MiSS", f"base_model.model.{LINEAR}.miss_block"),
    "VB-LoRA": ("another kind", f"base_model.model.{LINEAR}.vblora_logits_A"),
    "embedding": ("an embedding's table", "text_encoder.embeddings.token_embedding.lora_embedding_A"),
    "set_weight": ("replaces whole weights", f"{FLAT[LINEAR]}.set_weight"),
    "Custom Diffusion": ("Custom Diffusion", "mid.attn2.processor.to_k_custom_diffusion.weight"),
    "cloneofsimo": ("cloneofsimo", "unet:0:up"),
    "control-LoRA": ("control-LoRA", "lora_controlnet"),
    "LLLite": ("LLLite", "lllite_unet_x.down.0.weight"),
    "Flux": ("control LoRA of Flux", "transformer.norm_q.scale"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_cannot_be_read_is_named(model: StableDiffusion, tmp_path: Path, kind: str) -> None:
    what, name = KINDS[kind]
    for partial in (False, True):
        with pytest.raises(UserError, match=f"{what}.*cannot be read yet"):
            add(model, {**PAIR, name: torch.zeros(2, 2)}, tmp_path / "x.safetensors", allow_partial=partial)


def test_every_kind_is_tried_and_a_boft_is_told_from_an_oft(model: StableDiffusion, tmp_path: Path) -> None:
    import re

    names = [name for _, name in KINDS.values()]
    assert all(any(re.search(pattern, name) for name in names) for pattern in UNREADABLE)
    assert not any(re.search(pattern, f"x.{ending}") for pattern in UNREADABLE for ending in ROLES)
    with pytest.raises(UserError, match="a BOFT"):
        add(model, {f"{FLAT[LINEAR]}.oft_blocks": torch.zeros(1, 2, 2, 2)}, tmp_path / "x.safetensors")


@pytest.mark.parametrize("left_out", ["hada_w2_b", "dora", "lokr", "alpha alone"])
def test_half_an_update_is_not_applied(model: StableDiffusion, tmp_path: Path, left_out: str) -> None:
    pieces = {
        "hada_w2_b": {"hada_w1_a": random(8, 2), "hada_w1_b": random(2, 8), "hada_w2_a": random(8, 2)},
        "dora": {"dora_scale": random(8, 1)},
        "lokr": {"lokr_w1": random(2, 2)},
        "alpha alone": {"alpha": torch.tensor(1.0)},
    }[left_out]
    with pytest.raises(UserError, match="incomplete, or of a newer kind"):
        add(model, {f"{FLAT[LINEAR]}.{key}": one for key, one in pieces.items()}, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, "Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 1024, "Stable Diffusion 2"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 8, "Stable Diffusion XL"),
        ("lora_unet_double_blocks_0_img_attn_qkv", 8, "Flux"),
        ("transformer.transformer_blocks.0.attn.to_q", 8, "Flux"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv", 8, "Stable Diffusion 3"),
    ],
)
def test_a_lora_of_another_family_is_named(
    model: StableDiffusion, tmp_path: Path, name: str, shape: int, what: str
) -> None:
    with pytest.raises(UserError, match=f"it is a LoRA for {what}"):
        add(model, {f"{name}.lora_down.weight": random(2, shape)}, tmp_path / "x.safetensors")


# ---- the cases of the field


@pytest.fixture(scope="module")
def embedded() -> StableDiffusion:
    return diafano.load(device="cpu", dtype="float32")


def norm_of(embedded: StableDiffusion, path: Path, name: str) -> float:
    layer = embedded.unet.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    before = layer.weight.detach().clone()
    loras = Loras(embedded)
    loras.add(path)
    change = float((layer.weight.detach() - before).norm())
    loras.clear()
    assert torch.equal(layer.weight, before)
    return change


def test_the_alpha_of_todays_diffusers_counts(embedded: StableDiffusion) -> None:
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
    assert norm_of(embedded, CASES / "lora_alpha_in_metadata.safetensors", key) == pytest.approx(0.936, abs=5e-4)


@pytest.mark.parametrize(
    ("case", "formula"),
    [
        ("lora_loha", lambda t: t["alpha"] / 4 * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])),
        ("lora_norm_keys", lambda t: t["alpha"] / 4 * t["lora_up.weight"].float() @ t["lora_down.weight"].float()),
    ],
)
def test_the_cases_are_applied(
    embedded: StableDiffusion, case: str, formula: Callable[[Mapping[str, Tensor]], Tensor]
) -> None:
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    start = f"lora_unet_{name.replace('.', '_')}."
    tensors = {
        key.removeprefix(start): tensor.float()
        for key, tensor in load_file(CASES / f"{case}.safetensors").items()
        if key.startswith(start)
    }
    wanted = float(formula(tensors).norm())
    assert norm_of(embedded, CASES / f"{case}.safetensors", name) == pytest.approx(wanted, rel=1e-4)


def test_the_case_of_a_dora_has_rows_of_its_own_length(embedded: StableDiffusion) -> None:
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    lengths = load_file(CASES / "lora_dora.safetensors")[f"lora_unet_{name.replace('.', '_')}.dora_scale"]
    loras = Loras(embedded)
    loras.add(CASES / "lora_dora.safetensors")
    weight = weight_of(embedded, name)
    assert torch.allclose(weight.norm(dim=1, keepdim=True), lengths, rtol=1e-4)
    loras.clear()
