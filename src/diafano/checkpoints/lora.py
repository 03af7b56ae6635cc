"""LoRA files, and folders of them: names of tensors -> updates of a model's layers.

Read are kohya's names (``lora_unet_down_blocks_0_..._to_q.lora_down.weight``, LyCORIS' kinds included), PEFT's
(``unet.….to_q.lora_A.weight``) and diffusers' older ones (``….processor.to_q_lora.down.weight``). What a file holds
and no layer of the model takes is an error that names it, never left out in silence.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from diafano.checkpoints.addon_files import hash_of, named_files, note_nothing_in
from diafano.checkpoints.lora_settings import Settings, read_settings
from diafano.checkpoints.lora_tensors import by_layer, check_readable, spellings_of, updates_of
from diafano.checkpoints.opening import is_file, is_folder
from diafano.checkpoints.reading import listed, read_with_notes
from diafano.errors import UserError, note
from diafano.families.family import Family
from diafano.families.strangers import stranger
from diafano.networks.lora import Layer, Lora, MergedLoras, Strength, layers_of
from diafano.networks.lora_updates import Decomposed, Update
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.lora_tags import LoraTag


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
            if not is_folder(folder):
                raise UserError(f"there is no folder {str(folder)!r} of LoRAs: check the name")
            note_nothing_in(folder, "LoRA")
        self.files = {name: Path(path) for name, path in (files or {}).items()}
        for path in self.files.values():
            if not is_file(path):
                raise UserError(f"there is no file {path}: check the name")
        self.folders = folders
        self._allow_partial = allow_partial
        self._layers = layers_of(model.unet, model.text_encoder)
        self._family = model.family
        self._read: dict[Path, tuple[int, Lora]] = {}

    def __call__(self, name: str) -> Lora:
        """The LoRA of that name. Raises UserError where there is none, or none that fits the model."""
        options = "--lora-dir FOLDER or --lora FILE"
        path = named_files(name, self.files, self.folders, "LoRA", options, _name_inside)
        changed = path.stat().st_mtime_ns
        if path not in self._read or self._read[path][0] != changed:
            self._read[path] = (changed, read_lora(path, self._layers, self._family, allow_partial=self._allow_partial))
        return self._read[path][1]


def _name_inside(path: Path) -> str | None:
    """What kohya's scripts called the file when they wrote it: by this, not by the file's name, A1111's prompts name
    a LoRA unless they are told otherwise."""
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("ss_output_name")
    except (SafetensorError, OSError):  # whoever names that file is told what is wrong with it
        return None
    return None if said is None else str(said)


def read_lora(path: Path, layers: Mapping[str, Layer], family: Family, *, allow_partial: bool = False) -> Lora:
    """The LoRA in a file, for a model of the family with these layers.

    Raises UserError for tensors that no layer takes, and for settings that are not known; with `allow_partial` they
    are told in a note.
    """
    tensors, notes = read_with_notes(path)
    check_readable(tensors, path)
    settings = read_settings(path, notes)
    if not tensors:
        raise UserError(f"{path} holds no tensors, so it is no LoRA: fetch it again")
    updates, unmatched, changes = match(tensors, layers, family, path, settings)
    if settings.refused:
        _tell(
            f"{path} was made with {listed(settings.refused)}, which cannot be done", "use another file", allow_partial
        )
    if settings.decomposed and not any(isinstance(update, Decomposed) for update in updates.values()):
        raise UserError(f"{path} says that it is a DoRA and has no magnitudes: it is incomplete, fetch it again")
    if unmatched:
        said = f"{path} has {listed(unmatched)}, which no layer of this model takes"
        what = stranger(tensors)
        known = f"it is {what.partition(',')[0]}" if what and " for " in what else "it may be for another kind of model"
        _tell(said, known, allow_partial and bool(updates))
    if not changes:
        note(f"{path} changes nothing: all its updates are zero, as before the first step of a training")
    return Lora(updates, hash_of(path, without_header=True))


def _tell(said: str, otherwise: str, allowed: bool) -> None:
    if not allowed:
        raise UserError(f"{said}: {otherwise}, or say --allow-partial")
    note(said)


def match(
    tensors: Mapping[str, Tensor], layers: Mapping[str, Layer], family: Family, path: Path, settings: Settings
) -> tuple[dict[str, Update], list[str], bool]:
    """Tensor of the model -> its update; the names of the tensors that no layer takes; whether anything is changed.

    `path` is for what is said of errors, `settings` are what the file says outside of its tensors.
    """
    spellings = spellings_of(layers, family.lora_spellings)
    found, spelled, unmatched = by_layer(tensors, spellings)
    updates: dict[str, Update] = {}
    changes = False
    for layer, roles in found.items():
        for name, update, changing in updates_of(layer, roles, layers, settings, spelled[layer], path):
            updates[name] = update
            changes |= changing
    return updates, unmatched, changes
