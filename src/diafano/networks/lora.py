"""LoRA: a model's weights changed by products of thin matrices (Hu et al. 2021, arXiv 2106.09685), and its kin.

    weight + strength * alpha / rank * up @ down        up (out, rank), down (rank, in * height * width)

What else an update may be is in `networks.lora_updates`; norms and biases are changed too.

The files are read in `checkpoints.lora`, the tags that name them in a prompt in `text_encoder.lora_tags`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diafano.errors import UserError
from diafano.networks.lora_updates import Update

Layer = nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm
UNET, TEXT_ENCODER = "unet", "text_encoder"
"""The parts that a LoRA can change; a layer is called ``unet.conv_in``."""


@dataclass(frozen=True)
class Lora:
    """A LoRA that fits a model."""

    updates: Mapping[str, Update]
    """Tensor of the model -> its update: ``unet.conv_in.weight``, ``unet.conv_in.bias``."""
    hash: str
    """The first 12 hexadecimal digits by which the file is known, see `checkpoints.lora.lora_hash`."""


@dataclass(frozen=True)
class Strength:
    """What a LoRA's updates are multiplied with."""

    text: float
    """In the text encoder."""
    unet: float

    def of(self, layer: str) -> float:
        return self.unet if layer.startswith(UNET) else self.text


class MergedLoras:
    """LoRAs within the weights of a UNet and a text encoder: put in, weigh and remove them in any order.

    The original weights are kept, and every change is computed from them anew, so nothing drifts: with all LoRAs
    removed, or at strength 0, the weights are the very same tensors as before.
    """

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        self.layers = layers_of(unet, text_encoder)
        self.strengths: dict[str, Strength] = {}
        self._updates: dict[str, Mapping[str, Update]] = {}
        self._originals: dict[str, Tensor] = {}

    def put(self, name: str, lora: Lora, strength: Strength) -> None:
        """Merge a LoRA into the weights."""
        if name in self._updates:
            raise UserError(f"a LoRA named {name} is there already: remove it first, or give this one another name")
        self._updates[name] = lora.updates
        self._weigh(name, strength)

    def set_strength(self, name: str, strength: float, *, text: float | None = None) -> None:
        """What the LoRA of that name is multiplied with from now on; in the text encoder with `text`, if given."""
        if name not in self._updates:
            raise UserError(f"there is no LoRA {name!r} here: there are {', '.join(self._updates) or 'none'}")
        self._weigh(name, Strength(strength if text is None else text, strength))

    def remove(self, name: str) -> None:
        """Take a LoRA away."""
        self.set_strength(name, 0.0)
        del self._updates[name], self.strengths[name]

    def clear(self) -> None:
        """Take all away. Where it is interrupted, the same call once more takes away what is left."""
        for tensor in list(self._originals):
            self._restore(tensor)
        for name in list(self._updates):
            self.remove(name)

    def _weigh(self, name: str, strength: Strength) -> None:
        for one in (strength.text, strength.unet):
            if not abs(one) <= 100:
                self._updates = {other: updates for other, updates in self._updates.items() if other in self.strengths}
                raise UserError(f"the strength {one} of the LoRA {name} is not possible: give a number, 1 is usual")
        self.strengths[name] = strength
        self._compute(self._updates[name])

    @torch.inference_mode(False)  # a weight whose data were made in inference mode could never be trained again
    @torch.no_grad()
    def _compute(self, tensors: Iterable[str]) -> None:
        """These tensors, from the originals."""
        for tensor in tensors:
            weight = tensor_of(self.layers, tensor)
            original = self._originals.setdefault(tensor, weight.data)
            active = [
                (updates[tensor], self.strengths[name].of(tensor))
                for name, updates in self._updates.items()
                if tensor in updates and name in self.strengths and self.strengths[name].of(tensor) != 0
            ]
            if not active:
                self._restore(tensor)
                continue
            changed = original.float()
            for update, strength in active:
                changed = changed + strength * update.delta(changed).to(changed.device)
            # `empty_like` keeps the layout in memory, channels_last say.
            weight.data = torch.empty_like(original).copy_(changed)

    @torch.inference_mode(False)
    def _restore(self, tensor: str) -> None:
        """The original; it is forgotten only when it is in its place again."""
        tensor_of(self.layers, tensor).data = self._originals[tensor]
        del self._originals[tensor]


@contextmanager
def merged(
    unet: nn.Module, text_encoder: nn.Module, loras: Mapping[str, tuple[Lora, Strength]]
) -> Iterator[MergedLoras]:
    """The LoRAs within the weights for as long as the context lasts; the very same tensors are there afterwards."""
    inside = MergedLoras(unet, text_encoder)
    try:
        for name, (lora, strength) in loras.items():
            inside.put(name, lora, strength)
        yield inside
    finally:
        try:
            inside.clear()
        except KeyboardInterrupt:  # the second Ctrl-C of someone impatient
            inside.clear()
            raise


def layers_of(unet: nn.Module, text_encoder: nn.Module) -> dict[str, Layer]:
    """All layers that a LoRA can change, norms included, by name."""
    return {
        f"{part}.{name}": module
        for part, network in ((UNET, unet), (TEXT_ENCODER, text_encoder))
        for name, module in network.named_modules()
        if isinstance(module, Layer)
    }


def tensor_of(layers: Mapping[str, Layer], name: str) -> nn.Parameter:
    """The weight or bias of that name. Raises KeyError where the layer has none."""
    layer, _, parameter = name.rpartition(".")
    found = getattr(layers[layer], parameter)
    if not isinstance(found, nn.Parameter):
        raise KeyError(name)
    return found
