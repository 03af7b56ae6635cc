"""Tensors of a LoRA's file -> updates of a model's layers: the endings of names, and what they make together.

Kinds that are known and not read are called by their names (`UNREADABLE`): left out they would change the picture.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diafano.checkpoints.lora_settings import Settings
from diafano.checkpoints.quantized import check_fractions
from diafano.errors import UserError
from diafano.networks.lora import Layer, tensor_of
from diafano.networks.lora_updates import Decomposed, Difference, Factor, Hadamard, Kronecker, LowRank, Update

ROLES: Final = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A": "down",
    "lora_B": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "lora_B.bias": "up_bias",
    "lora_up.bias": "up_bias",
    "dora_scale": "lengths",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "diff": "diff",
    "diff_b": "diff_b",
    "w_norm": "diff",
    "b_norm": "diff_b",
    **{f"hada_{piece}": f"hada_{piece}" for piece in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{piece}": f"lokr_{piece}" for piece in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "alpha": "alpha",
}
"""How the names of a file's tensors end -> what the tensor is."""
ADAPTER: Final = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$|bias$)\w+(?=\.weight$|\.bias$|$)")
"""The name of PEFT's adapter, which whoever saves a network's own state keeps in its tensors' names."""
_OLD_PROCESSOR = re.compile(r"(?:processor\.)?(to_[qkv]|to_out)_lora\.(down|up)\.weight$")

UNREADABLE: Final = {
    r"\.(boft_[A-Za-z]+(\..*)?)$": "a BOFT",
    r"\.(oft_blocks|oft_diag|oft_[rR](\..*)?|rescale)$": "an OFT",
    r"\.(a1|a2|b1|b2|bm)\.weight$": "a GLoRA of LyCORIS",
    r"\.(on_input|ia3_l(\..*)?)$": "an (IA)3",
    r"\.(q_layer|p_layer|lambda_layer)(\.|$)": "a T-LoRA of LyCORIS",
    r"\.scalar$": "an add-on of LyCORIS with trained scalars",
    r"\.vera_lambda": "a VeRA of PEFT",
    r"\.(lora_E|ranknum)(\.|$)": "an AdaLoRA of PEFT",
    r"\.fourierft_spectrum": "a FourierFT of PEFT",
    r"\.hra_u": "an HRA of PEFT",
    r"\.(bone_|miss_)": "a MiSS of PEFT",
    r"\.(vblora_|shira_|randlora_|c3a_)": "an adapter of PEFT of another kind than LoRA, LoHa or LoKr",
    r"\.lora_embedding_[AB]": "a LoRA of an embedding's table",
    r"\.(set_weight|reshape_weight)$": "a file that replaces whole weights",
    r"to_[kqv]_custom_diffusion|to_out_custom_diffusion": "a Custom Diffusion of diffusers",
    r"^(unet|text_encoder|clip):\d+:(up|down)": "a LoRA in its first form (cloneofsimo's), which numbers its layers",
    r"^lora_controlnet$": "a control-LoRA, which is a ControlNet and no LoRA",
    r"^lllite_": "a ControlNet-LLLite, which is a ControlNet and no LoRA",
    r"(^|\.)norm[.\w]*\.scale$": "a control LoRA of Flux",
}
"""Names of tensors -> what the file is that has them."""


def check_readable(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError for a kind that is known and not read, by its name, whatever else the file holds."""
    for pattern, what in UNREADABLE.items():
        found = next((name for name in tensors if re.search(pattern, name)), None)
        if found is not None:
            if found.endswith("oft_blocks") and tensors[found].ndim == 4:
                what = "a BOFT"
            raise UserError(f"{path} is {what} (it has {found}), which cannot be read yet: use a LoRA, LoHa or LoKr")


def by_layer(
    tensors: Mapping[str, Tensor], spellings: Mapping[str, str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str], list[str]]:
    """Layer -> role -> tensor; layer -> how the file spells it; and the names that belong to no layer."""
    found: dict[str, dict[str, Tensor]] = {}
    spelled: dict[str, str] = {}
    unmatched: list[str] = []
    for name, tensor in tensors.items():
        prefix, role = split_fused_name(name)
        layer = spellings.get(prefix)
        if layer is None or role is None:
            unmatched.append(name)
        else:
            found.setdefault(layer, {})[role] = tensor
            spelled[layer] = prefix
    return found, spelled, unmatched


def updates_of(
    layer: str, roles: Mapping[str, Tensor], layers: Mapping[str, Layer], settings: Settings, spelled: str, path: Path
) -> Iterator[tuple[str, Update, bool]]:
    """(tensor of the model, its update, whether that changes anything) of all that a file has for a layer.

    Raises UserError for what is incomplete, does not fit or is not finite.
    """
    module = layers[layer]
    left = set(roles) - {"alpha"}

    def take(*names: str) -> list[Tensor | None]:
        left.difference_update(names)
        return [roles.get(name) for name in names]

    def alpha() -> float:
        if roles["alpha"].numel() != 1 or not math.isfinite(number := float(roles["alpha"])):
            raise UserError(f"{path} has an alpha for {layer} that is no number: the file is damaged, use another one")
        return number

    def scale(rank: int | None) -> float:
        if rank is None and ("alpha" in roles or not settings.whole_factors):
            return 1.0
        if rank is not None and "alpha" in roles:
            return alpha() / max(rank, 1)
        kernel = module.weight.shape[2:]
        return 1.0 if settings.scale is None else settings.scale(spelled, rank, any(edge > 1 for edge in kernel))

    check_fractions({f"{role} of {layer}": tensor for role, tensor in roles.items() if role != "alpha"}, path)
    weight: Update | None = None
    bias: Tensor | None = None
    if "down" in roles and "up" in roles:
        down, up, mid, up_bias = take("down", "up", "mid", "up_bias")
        assert down is not None and up is not None
        factor = scale(len(down))
        weight = LowRank(down, up, mid, factor)
        bias = None if up_bias is None else factor * up_bias.float()
    elif all(f"hada_{piece}" in roles for piece in ("w1_a", "w1_b", "w2_a", "w2_b")):
        a1, b1, t1, a2, b2, t2 = take("hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2")
        assert a1 is not None and b1 is not None and a2 is not None and b2 is not None
        weight = Hadamard(Factor(a1, b1, t1), Factor(a2, b2, t2), scale(len(b1)))
    elif all(f"lokr_w{n}" in roles or {f"lokr_w{n}_a", f"lokr_w{n}_b"} <= roles.keys() for n in (1, 2)):
        pieces = take("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        first, second, core = _factor(*pieces[:3]), _factor(*pieces[3:6]), pieces[6]
        rank = next((len(one[1]) for one in (first, second) if isinstance(one, tuple)), None)
        weight = Kronecker(first, second, core, scale(rank))
    elif "diff" in roles:
        (change,) = take("diff")
        assert change is not None
        weight = Difference(change)
    if weight is not None and ("lengths" in roles or "magnitude" in roles):
        lengths, magnitude = take("lengths", "magnitude")
        if magnitude is not None:  # PEFT's, always of rows: (out,), or (1, out, 1, 1) of a convolution
            lengths = magnitude.reshape(-1, *[1] * (module.weight.ndim - 1))
        assert lengths is not None
        weight = Decomposed(weight, lengths)
    if "diff_b" in roles:
        (bias,) = take("diff_b")
    if left or (weight is None and bias is None):
        raise UserError(
            f"{path} has {' and '.join(sorted(roles))} for {layer}, which together are no update that is known: it is"
            " incomplete, or of a newer kind"
        )
    for parameter, update in (("weight", weight), ("bias", None if bias is None else Difference(bias))):
        if update is None:
            continue
        name = f"{layer}.{parameter}"
        try:
            delta = update.delta(tensor_of(layers, name).detach())
        except KeyError:
            raise UserError(f"{path} has a bias for {layer}, which has none in this model") from None
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{path} has matrices of another size for {layer} ({error}): it was made for another kind of model"
            ) from None
        if not bool(torch.isfinite(delta).all()):
            raise UserError(
                f"{path} has values for {layer} that are NaN or infinite, as after a training that went wrong: use"
                " another file, an earlier one of that training say"
            )
        yield name, update, bool(delta.any())


def _factor(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    if whole is not None:
        return whole
    assert a is not None and b is not None
    return a, b


def split_fused_name(name: str) -> tuple[str, str | None]:
    """(layer as the file spells it, role) of a tensor's name; the role is None where the ending is not known."""
    name = ADAPTER.sub(r".\1", name.replace("base_model.model.", "", 1))  # PEFT's
    if old := _OLD_PROCESSOR.search(name):
        before = name[: old.start()]
        if before.endswith("self_attn."):  # the text encoder's, under the UNet's names
            return before + {"to_out": "out_proj"}.get(old[1], f"{old[1][-1]}_proj"), old[2]
        return before + {"to_out": "to_out.0"}.get(old[1], old[1]), old[2]
    for ending, role in ROLES.items():
        if name.endswith("." + ending):
            return name[: -len(ending) - 1], role
    return name, None


def spellings_of(layers: Iterable[str], spell: Callable[[Sequence[str]], Iterable[tuple[str, str]]]) -> dict[str, str]:
    """How files may call each layer -> the layer; LyCORIS has a beginning of its own for what kohya's names have."""
    found: dict[str, str] = {}
    for layer, spelling in spell(list(layers)):
        found[spelling] = layer
        if spelling.startswith("lora_unet_"):
            found[spelling.replace("lora_unet_", "lycoris_", 1)] = layer
    return found
