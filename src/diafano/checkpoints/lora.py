"""LoRA files, and folders of them: names of tensors -> updates of a model's layers.

Read are kohya's names (``lora_unet_down_blocks_0_..._to_q.lora_down.weight``, LoCon's convolutions included), PEFT's
(``unet.….to_q.lora_A.weight``) and diffusers' older ones (``….processor.to_q_lora.down.weight``). What a file holds
and no layer of the model takes is an error that names it, never left out in silence.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from diafano.checkpoints.addon_files import hash_of, named_files, note_nothing_in
from diafano.checkpoints.reading import listed, read_file
from diafano.errors import UserError, note
from diafano.families.family import Family
from diafano.networks.lora import Layer, Lora, MergedLoras, Strength, Update, layers_of
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.lora_tags import LoraTag

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


class Loras(MergedLoras):
    """The LoRAs that a model keeps until they are taken away; what it draws meanwhile says so in its settings."""

    def __init__(self, model: StableDiffusion) -> None:
        super().__init__(model.unet, model.text_encoder)
        self._kept = model.addons.kept
        self._family = model.family

    def add(
        self,
        path: str | os.PathLike[str],
        strength: float = 1.0,
        *,
        text: float | None = None,
        allow_partial: bool = False,
        name: str | None = None,
    ) -> str:
        """Add the LoRA in a file; returns its name (the file's, unless one is given). `text` is its strength in the
        text encoder, where that is another.

        Raises UserError for tensors that no layer of this model takes; with `allow_partial` they are told in a note.
        """
        path = Path(path)
        name = path.stem if name is None else name
        lora = read_lora(path, self.layers, self._family, allow_partial=allow_partial)
        self.put(name, lora, Strength(strength if text is None else text, strength))
        self._kept[name] = (LoraTag(name, self.strengths[name].text, strength), lora.hash)
        return name

    def set_strength(self, name: str, strength: float, *, text: float | None = None) -> None:
        super().set_strength(name, strength, text=text)
        self._kept[name] = (LoraTag(name, self.strengths[name].text, strength), self._kept[name][1])

    def remove(self, name: str) -> None:
        super().remove(name)
        del self._kept[name]


class LoraFiles:
    """Where a model finds the LoRAs that its prompts name: folders, searched through, and files by name."""

    def __init__(
        self,
        model: StableDiffusion,
        folders: tuple[Path, ...] = (),
        files: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        allow_partial: bool = False,
    ) -> None:
        """`files` goes before `folders`. Raises UserError for a folder or a file that is not there."""
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"there is no folder {str(folder)!r} of LoRAs: check the name")
            note_nothing_in(folder, "LoRA")
        self.files = {name: Path(path) for name, path in (files or {}).items()}
        for path in self.files.values():
            if not path.is_file():
                raise UserError(f"there is no file {path}: check the name")
        self.folders = folders
        self._allow_partial = allow_partial
        self._layers = layers_of(model.unet, model.text_encoder)
        self._family = model.family
        self._read: dict[Path, tuple[int, Lora]] = {}

    def __call__(self, name: str) -> Lora:
        """The LoRA of that name. Raises UserError where there is none, or none that fits the model."""
        path = named_files(name, self.files, self.folders, "LoRA", "--lora-dir FOLDER or --lora FILE")
        changed = path.stat().st_mtime_ns
        if path not in self._read or self._read[path][0] != changed:
            self._read[path] = (changed, read_lora(path, self._layers, self._family, allow_partial=self._allow_partial))
        return self._read[path][1]


def read_lora(path: Path, layers: Mapping[str, Layer], family: Family, *, allow_partial: bool = False) -> Lora:
    """The LoRA in a file, for a model of the family with these layers.

    Raises UserError for tensors that no layer takes; with `allow_partial` they are told in a note.
    """
    updates, unmatched = match(read_file(path), layers, family, path)
    if unmatched:
        said = f"{path} has {listed(unmatched)}, which no layer of this model takes"
        if not allow_partial or not updates:
            raise UserError(f"{said}: it was made for another kind of model, or say --allow-partial")
        note(said)
    return Lora(updates, hash_of(path, without_header=True))


def match(
    tensors: Mapping[str, Tensor], layers: Mapping[str, Layer], family: Family, path: Path
) -> tuple[dict[str, Update], list[str]]:
    """Layer -> its update, and the names of the tensors that no layer takes. `path` is for what is said of errors."""
    spellings = {spelling: layer for layer in layers for spelling in family.lora_spellings(layer)}
    found: dict[str, dict[str, Tensor]] = {}
    unmatched: list[str] = []
    for name, tensor in tensors.items():
        prefix, role = _split_fused_name(name)
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


def _split_fused_name(name: str) -> tuple[str, str | None]:
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
