"""The diffusers folder, in which models are kept: ``model_index.json`` and a folder a part.

    unet/ vae/                  config.json, diffusion_pytorch_model.safetensors
    text_encoder/               config.json, model.safetensors
    tokenizer/ scheduler/       vocabulary; scheduler_config.json
    diafano.json                the model's card (`ModelCard`), which other programs do not need

These are the folders of Stable Diffusion 1 and 2; each family declares its own (`Family.folders`). Both ways: what is
written here opens in diffusers' pipelines, and what those write opens here.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diafano.checkpoints.opening import is_file, is_folder
from diafano.checkpoints.parts import ReadPart, read_part, write_part
from diafano.checkpoints.reading import read_json
from diafano.checkpoints.upscaler_files import OWN, UpscalerFiles
from diafano.checkpoints.writing import MAX_SHARD_BYTES, folder_in_place, write_json
from diafano.engine.devices import find_device, find_dtype
from diafano.errors import UserError, checked
from diafano.families.configs import DIFFUSERS_VERSION
from diafano.families.family import Family, FolderPart, Parts, Preset, TextPart, WriteContext
from diafano.families.presets import preset_of
from diafano.families.table import family_of, family_of_index, known_families
from diafano.request.card import ModelCard
from diafano.sampling.samplers.table import find_sampler
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.tokenizer import Tokenizer

INDEX, CARD = "model_index.json", "diafano.json"


@dataclass(frozen=True)
class FolderModel:
    """A model in a folder: its parts without weights (on the meta device), and what is stored of them."""

    folder: Path
    family: Family
    parts: Parts
    stored: Mapping[str, ReadPart[Any]]
    """By their folder."""
    card: ModelCard

    @property
    def preset(self) -> Preset:
        """The configurations of its parts."""
        parts = self.parts
        return preset_of(
            self.family,
            {folder: text.encoder.config for folder, text in parts.texts.items()},
            parts.network.config,
            parts.autoencoder.config,
            self.stored[self.family.process].part.config,
            name=self.folder.resolve().name,
            size=self.card.size,
        )


def load_folder(
    path: str | os.PathLike[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    allow_partial: bool = False,
) -> StableDiffusion:
    """The model in a diffusers folder. Raises UserError, naming it, for whatever is missing, unexpected or unknown.

    With `allow_partial` unexpected tensors are told in a note.
    """
    folder = Path(path)
    if not is_folder(folder):
        raise UserError(f"there is no model folder {str(folder)!r}: check the name")
    device = find_device(device)
    model = read_folder(folder, prefer_half=prefers_half(dtype, device))
    networks = [read.part for read in model.stored.values() if isinstance(read.part, nn.Module)]
    dtype = find_dtype(dtype, device, sum(tensor.numel() for part in networks for tensor in part.parameters()))
    for read in model.stored.values():
        read.filled(device, dtype, allow_partial=allow_partial)
    loaded = model_of(model.parts, model.card, model.family)
    if is_file(folder / OWN):
        loaded.addons.own_upscaler = loaded.card.name
        loaded.addons.find_upscaler = UpscalerFiles(own=(loaded.card.name, folder / OWN), device=device)
    return loaded


def read_folder(folder: Path, *, weights: bool = True, prefer_half: bool = False) -> FolderModel:
    """What a diffusers folder holds, described; `weights` are mapped into memory, if they are wanted.

    `prefer_half` takes the copies in half precision where there are two. Raises UserError as `load_folder` does, but
    for tensors that do not fit.
    """
    _check_has_index(folder)
    index = read_json(folder / INDEX)
    family = check_index(index, folder)
    stored: dict[str, ReadPart[Any]] = {}
    tokenizers: dict[str, Tokenizer] = {}
    for part, kinds in family.folders.items():
        if part in family.tokenizers:
            tokenizers[part] = Tokenizer.from_folder(folder / family.tokenizers[part])
        stored[part] = read_part(
            folder / part, *kinds, tokenizer=tokenizers.get(part), weights=weights, prefer_half=prefer_half
        )
    parts = Parts(
        {part: TextPart(tokenizer, stored[part].part) for part, tokenizer in tokenizers.items()},
        stored[family.network].part,
        stored[family.autoencoder].part,
        stored[family.process].part,
    )
    found = family_of(parts)  # of families with the same folders
    return FolderModel(folder, found, parts, stored, _card(folder, found, parts, stored))


def _check_has_index(folder: Path) -> None:
    """Raises UserError for a folder that is no model's, with what in it or around it may be meant."""
    if os.path.lexists(folder / INDEX):
        return
    said = f"{folder} holds no {INDEX}, so it is no model's folder"
    snapshots = sorted((folder / "snapshots").glob(f"*/{INDEX}"))  # of the hub's cache
    inside = snapshots or sorted(folder.glob(f"*/{INDEX}"))
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".safetensors", ".ckpt"))
    if (folder.parent / INDEX).is_file():
        raise UserError(f"{said}, but a part's: give {folder.parent}")
    if inside:
        raise UserError(f"{said}: give {' or '.join(str(path.parent) for path in inside[:3])}")
    if files:
        raise UserError(f"{said}: give a file in it, such as {files[0]}")
    raise UserError(f"{said}: give one that has it, or fetch the model again")


def model_of(parts: Parts, card: ModelCard, family: Family) -> StableDiffusion:
    """The parts put together."""
    (_, first), *further = parts.texts.items()
    return StableDiffusion(
        first.tokenizer,
        first.encoder,
        parts.network,
        parts.autoencoder,
        parts.process,
        card,
        family=family,
        further_texts=dict(further),
    )


def prefers_half(dtype: str | torch.dtype, device: torch.device) -> bool:
    """Whether the copy of the weights in half precision is read where there are two."""
    return dtype in (torch.float16, "float16", "fp16") or (dtype == "auto" and device.type != "cpu")


def save_folder(
    model: StableDiffusion,
    path: str | os.PathLike[str],
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the model as a diffusers folder, weights converted to `dtype` (None: as they are).

    The folder appears as a whole or not at all. An older model of that name is replaced; other files beside it stay.
    """
    kept = None if dtype is None else find_dtype(dtype, torch.device("cpu"), 0)
    parts, family = model.parts, model.family
    said = WriteContext(model.card.size, model.autoencoder.factor)
    index = {**family.index(parts), "_diffusers_version": DIFFUSERS_VERSION}
    with folder_in_place(Path(path), marker=INDEX) as folder:
        for name, kinds in family.folders.items():
            part = parts.texts[name].encoder if name in parts.texts else _other_parts(family, parts)[name]
            kind = _kind_of(part, kinds)
            write_part(part, folder / name, kind, said, dtype=kept, max_shard_bytes=max_shard_bytes)
            index[name] = [kind.library, kind.class_name]
            if name in parts.texts:
                parts.texts[name].tokenizer.save(folder / family.tokenizers[name])
                index[family.tokenizers[name]] = [kind.library, kind.tokenizer]
        write_json(folder / CARD, model.card.model_dump(mode="json"))
        write_json(folder / INDEX, dict(sorted(index.items())))


def _other_parts(family: Family, parts: Parts) -> dict[str, Any]:
    return {family.network: parts.network, family.autoencoder: parts.autoencoder, family.process: parts.process}


def _kind_of(part: Any, kinds: tuple[FolderPart[Any], ...]) -> FolderPart[Any]:
    return next((kind for kind in kinds if isinstance(part.config, kind.config_class)), kinds[0])


def check_index(index: Mapping[str, Any], folder: Path) -> Family:
    """The family that a model_index.json, which is in `folder`, is of; others with the same folders are possible.

    Raises UserError unless it names all parts of a model that is known.
    """
    family = family_of_index(index)
    if family is None:
        raise UserError(f"{folder} holds a {index.get('_class_name')}: only the kind of {known_families()} is known")
    for part in (*family.tokenizers.values(), *family.tokenizers, *family.folders):
        if not (isinstance(index.get(part), list) and index[part] and index[part][-1] is not None):
            raise UserError(f"{folder / INDEX} names no {part}: the model is incomplete, fetch it again")
    return family


def _card(folder: Path, family: Family, parts: Parts, stored: Mapping[str, ReadPart[Any]]) -> ModelCard:
    if not (folder / CARD).is_file():
        sample_size = stored[family.network].settings.get("sample_size")
        return _guessed_card(folder, sample_size, parts.autoencoder.factor, stored[family.process].settings)
    try:
        return checked(ModelCard, read_json(folder / CARD))
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}") from None


def _guessed_card(folder: Path, sample_size: Any, factor: int, scheduler: Mapping[str, Any]) -> ModelCard:
    """A card for a folder that another program wrote: its name, its size, and the sampler its scheduler is like."""
    edges = sample_size if isinstance(sample_size, list | tuple) else [sample_size, sample_size]
    fields: dict[str, Any] = {"name": folder.resolve().name}
    if all(isinstance(edge, int) for edge in edges):
        fields["size"] = (edges[1] * factor, edges[0] * factor)
    with contextlib.suppress(UserError):  # a sampler that is not known here leaves the card's default
        fields["sampler"] = find_sampler(str(scheduler.get("_class_name")).removeprefix("Flax")).name
    if scheduler.get("use_karras_sigmas", False):
        fields["schedule"] = "karras"
    return checked(ModelCard, fields)
