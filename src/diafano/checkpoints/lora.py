"""LoRA: small files that change a model's weights by products of thin matrices (Hu et al. 2021, arXiv 2106.09685).

    weight + strength * alpha / rank * up @ down        up (out, rank), down (rank, in * height * width)

Read are kohya's names (``lora_unet_down_blocks_0_..._to_q.lora_down.weight``, LoCon's convolutions included), PEFT's
(``unet.….to_q.lora_A.weight``) and diffusers' older ones (``….processor.to_q_lora.down.weight``). What a file holds
and no layer of the model takes is an error that names it, never left out in silence.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from diafano.checkpoints.reading import listed, read_file
from diafano.errors import UserError
from diafano.stable_diffusion import StableDiffusion

ROLES: Final = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
}
"""How the names of a file's tensors end -> what the tensor is."""
_OLD_PROCESSOR = re.compile(r"(?:processor\.)?(to_[qkv]|to_out)_lora\.(down|up)\.weight$")


@dataclass(frozen=True)
class Update:
    """What one layer's weight is changed by."""

    down: Tensor
    """(rank, in) or (rank, in, height, width)."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1)."""
    mid: Tensor | None
    """LoCon's core of a convolution that is taken apart further: (rank, rank, height, width)."""
    scale: float
    """alpha / rank."""

    def delta(self, shape: torch.Size) -> Tensor:
        """The change of a weight of that shape at strength 1, float32. Raises ValueError if it does not fit."""
        up, down = self.up.float().flatten(1), self.down.float()
        if self.mid is not None:
            product = torch.einsum("or,rshw,si->oihw", up, self.mid.float(), down.flatten(1))
        else:
            product = up @ down.flatten(1)
        if product.numel() != shape.numel() or len(product) != shape[0]:
            raise ValueError(f"{tuple(product.shape)} for {tuple(shape)}")
        return self.scale * product.reshape(shape)


class Loras:
    """The LoRAs of one model: add, weigh and remove them in any order.

    The original weights are kept, and every change is computed from them anew, so nothing drifts: with all LoRAs
    removed, or at strength 0, the weights are the very same tensors as before.
    """

    def __init__(self, model: StableDiffusion) -> None:
        self.model = model
        self._updates: dict[str, dict[str, Update]] = {}
        self._strengths: dict[str, float] = {}
        self._originals: dict[str, Tensor] = {}
        self._layers = dict(_layers(model))

    def add(
        self,
        path: str | os.PathLike[str],
        strength: float = 1.0,
        *,
        allow_partial: bool = False,
        name: str | None = None,
    ) -> str:
        """Add the LoRA in a file; returns its name (the file's, unless one is given).

        Raises UserError for tensors that no layer of this model takes; with `allow_partial` they are told in a warning.
        """
        path = Path(path)
        name = path.stem if name is None else name
        if name in self._updates:
            raise UserError(f"a LoRA named {name} is there already: remove it first, or give this one another name")
        updates, unmatched = match(read_file(path), self._layers, path)
        if unmatched:
            said = f"{path} has {listed(unmatched)}, which no layer of this model takes"
            if not allow_partial or not updates:
                raise UserError(f"{said}: it was made for another kind of model, or say --allow-partial")
            warnings.warn(said, stacklevel=2)
        self._updates[name] = updates
        self.set_strength(name, strength)
        return name

    def set_strength(self, name: str, strength: float) -> None:
        """What the LoRA of that name is multiplied with from now on."""
        if name not in self._updates:
            raise UserError(f"there is no LoRA {name!r} here: there are {', '.join(self._updates) or 'none'}")
        if not abs(strength) <= 100:
            raise UserError(f"the strength {strength} of the LoRA {name} is not possible: give a number, 1 is usual")
        self._strengths[name] = strength
        self._compute(self._updates[name])

    def remove(self, name: str) -> None:
        """Take a LoRA away."""
        self.set_strength(name, 0.0)
        del self._updates[name], self._strengths[name]

    def clear(self) -> None:
        """Take all away."""
        for name in list(self._updates):
            self.remove(name)

    @torch.no_grad()
    def _compute(self, layers: Mapping[str, object]) -> None:
        """The weights of these layers, from the originals."""
        for layer in layers:
            weight = self._layers[layer].weight
            original = self._originals.setdefault(layer, weight.data)
            changed = original.float()
            active = [
                (updates[layer], self._strengths[name])
                for name, updates in self._updates.items()
                if layer in updates and self._strengths[name] != 0
            ]
            for update, strength in active:
                changed = changed + strength * update.delta(weight.shape).to(changed.device)
            weight.data = changed.to(original.dtype) if active else self._originals.pop(layer)


def match(
    tensors: Mapping[str, Tensor], layers: Mapping[str, nn.Linear | nn.Conv2d], path: Path
) -> tuple[dict[str, Update], list[str]]:
    """Layer -> its update, and the names of the tensors that no layer takes. `path` is for what is said of errors."""
    spellings = {spelling: layer for layer in layers for spelling in _spellings(layer)}
    found: dict[str, dict[str, Tensor]] = {}
    unmatched: list[str] = []
    for name, tensor in tensors.items():
        prefix, role = _taken_apart(name)
        layer = spellings.get(prefix)
        if layer is None or role is None:
            unmatched.append(name)
        else:
            found.setdefault(layer, {})[role] = tensor
    updates = {}
    for layer, roles in found.items():
        if "down" not in roles or "up" not in roles:
            raise UserError(f"{path} has only {' and '.join(roles)} for {layer}: it is incomplete, fetch it again")
        rank = len(roles["down"])
        alpha = float(roles["alpha"]) if "alpha" in roles else float(rank)
        update = Update(roles["down"], roles["up"], roles.get("mid"), alpha / max(rank, 1))
        try:
            update.delta(layers[layer].weight.shape)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{path} has matrices of another size for {layer} ({error}): it was made for another kind of model"
            ) from None
        updates[layer] = update
    return updates, unmatched


def _taken_apart(name: str) -> tuple[str, str | None]:
    """(layer as the file spells it, role) of a tensor's name; the role is None where the ending is not known."""
    if old := _OLD_PROCESSOR.search(name):
        before = name[: old.start()]
        if before.endswith("self_attn."):  # the text encoder's, under the UNet's names
            return before + {"to_out": "out_proj"}.get(old[1], f"{old[1][-1]}_proj"), old[2]
        return before + {"to_out": "to_out.0"}.get(old[1], old[1]), old[2]
    for ending, role in ROLES.items():
        if name.endswith("." + ending):
            return name[: -len(ending) - 1], role
    return name, None


def _layers(model: StableDiffusion) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """``unet.conv_in`` and so on: all layers that a LoRA can change."""
    for part in ("unet", "text_encoder"):
        for name, module in getattr(model, part).named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield f"{part}.{name}", module


def _spellings(layer: str) -> Iterator[str]:
    """How files call a layer."""
    part, _, name = layer.partition(".")
    if part == "unet":
        yield from (layer, name, "lora_unet_" + name.replace(".", "_"))
    else:
        for prefix in ("", "text_model."):
            yield f"text_encoder.{prefix}{name}"
        yield from (f"{te}_text_model_{name.replace('.', '_')}" for te in ("lora_te", "lora_te1"))
