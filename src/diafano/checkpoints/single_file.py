"""The original single file: everything in one ``.safetensors`` (or ``.ckpt``), as CompVis and Stability publish it.

`recognise` says what a file is, `load_file` makes a model of it, `save_file` writes one back. The file holds weights
only: the tokenizer comes from elsewhere, and what the form cannot say (`_check_sayable`) is not written.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diafano.checkpoints.diffusers import model_of
from diafano.checkpoints.hub import HubId, fetch_tokenizer, find_hub_id
from diafano.checkpoints.parts import ReadPart
from diafano.checkpoints.reading import listed
from diafano.checkpoints.recognise import Original, recognise
from diafano.checkpoints.vae import find_vae
from diafano.checkpoints.writing import save_tensors, storable
from diafano.engine.devices import find_device, find_dtype
from diafano.errors import UserError, note
from diafano.families import names as table
from diafano.families.family import Parts, Preset, TextPart
from diafano.families.presets import preset_of
from diafano.families.table import FAMILIES, single_file_of
from diafano.files import refusal
from diafano.request.card import ModelCard
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.tokenizer import Tokenizer

SUFFIX: Final = ".safetensors"
"""What a path that `save_file` writes to ends in."""


def load_file(
    path: str | os.PathLike[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    prediction: str | None = None,
    ema: bool = False,
    vae: str | os.PathLike[str] | None = None,
    allow_partial: bool = False,
) -> StableDiffusion:
    """The model in an original single file; `tokenizer` is where its tokenizer is, which the file does not hold.

    That is a folder or a hub id; None is the one on the hub that the file's family was trained with. See `recognise`
    for `prediction` and `ema`. `vae` is where the autoencoder of a file without one is. With `allow_partial` tensors
    that have no place in the model are told in a note.
    Raises UserError, one sentence, for whatever is missing or unknown.
    Warns of tensors that are not known, and where noise or v prediction is only a guess.
    """
    original = recognise(Path(path), prediction=prediction, ema=ema)
    found = (
        find_vae(Path(vae), allow_partial=allow_partial)
        if vae is not None and "autoencoder" in original.absent
        else None
    )
    lent = None if found is None else found.part
    if found is not None and not found.says_scale:
        original.said.scale_latents(found.part.part)
    check_complete(original, lent=() if lent is None else ("autoencoder",), allow_partial=allow_partial)
    family = FAMILIES[original.family]
    folder = _tokenizer_folder(tokenizer, original)
    words = Tokenizer.from_folder(folder)
    stored = {
        name: ReadPart(part.network, part.weights(original.tensors), original.path, {})
        for name, part in original.parts.items()
    }
    if lent is not None:
        stored["autoencoder"] = lent
    networks = {name: read.part for name, read in stored.items()}
    for name in family.tokenizers:
        networks[name].config = networks[name].config.model_copy(
            update={"start_token": words.start_token, "end_token": words.end_token, "pad_token": words.pad_token}
        )
    _tell_of_doubts(original, words, folder)

    device = find_device(device)
    dtype = find_dtype(dtype, device, sum(one.numel() for part in networks.values() for one in part.parameters()))
    for read in stored.values():
        read.filled(device, dtype)
    parts = Parts(
        {name: TextPart(words, networks[name]) for name in family.tokenizers},
        networks[family.network],
        networks["autoencoder"],
        family.folders[family.process][0].make(original.process),
    )
    return model_of(parts, ModelCard(name=Path(path).stem, size=original.size), family)


def save_file(model: StableDiffusion, path: str | os.PathLike[str], dtype: str | torch.dtype | None = None) -> None:
    """Write the model as an original single file, weights converted to `dtype` (None: as they are).

    The file appears as a whole or not at all. Raises UserError for a model that the form has no words for.
    """
    target = Path(os.path.abspath(path))
    if target.suffix.lower() != SUFFIX:
        raise UserError(f"a single file is written as {SUFFIX}, not as {target.name}: change the name")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent} to write {target.name} into: make it first")
    if target.is_dir():
        raise UserError(f"{target} is a folder: give the path of a file")
    _check_sayable(model)
    kept = None if dtype is None else find_dtype(dtype, torch.device("cpu"), 0)
    weights = {name: storable(name, tensor, kept) for name, tensor in original_weights(model).items()}
    said, markers = single_file_of(model.family).written(model.schedule.config)
    _write(weights | markers, _metadata(model, said), target)


def original_weights(model: StableDiffusion) -> dict[str, Tensor]:
    """All weights of the model under the original's names and in its form."""
    parts, family = model.parts, model.family
    networks = {family.network: parts.network, "autoencoder": parts.autoencoder}
    networks |= {name: text.encoder for name, text in parts.texts.items()}
    return {
        name: tensor
        for part, form in single_file_of(family).parts.items()
        for name, tensor in table.to_original(networks[part].state_dict(), form.table(networks[part])).items()
    }


def preset_of_file(original: Original) -> Preset:
    """The configurations of a file that is complete."""
    family = FAMILIES[original.family]
    configs = {name: part.network.config for name, part in original.parts.items()}
    return preset_of(
        family,
        {name: configs[name] for name in family.tokenizers},
        configs[family.network],
        configs["autoencoder"],
        original.process,
        name=original.path.stem,
        size=original.size,
    )


def check_complete(original: Original, lent: Collection[str] = (), *, allow_partial: bool = False) -> None:
    """Raises UserError, one sentence, unless a model that draws from text, or fills in pictures, can be made of it.

    `lent` are parts that come from elsewhere. With `allow_partial` tensors without a place are told in a note.
    """
    path, form = original.path, original.form
    for part in (part for part in original.absent if part not in lent):
        how = " or one with --vae SOURCE" if part == "autoencoder" else ""
        raise UserError(
            f"{path} holds no {form.parts[part].label} (nothing under {form.parts[part].prefix}): it cannot draw alone,"
            f" give a file with all parts{how}"
        )
    if original.missing:
        raise UserError(f"{path} lacks {listed(original.missing)}: fetch it again")
    if original.misshapen:
        raise UserError(f"{path} has tensors of a wrong shape, {listed(original.misshapen)}: fetch it again")
    if original.unexpected:
        said = f"{path} has {listed(original.unexpected)}, which {original.label} has no place for"
        if not allow_partial:
            raise UserError(f"{said}: it is a model of another kind, or say --allow-partial to leave them out")
        note(said)
    if not original.drawn:
        raise UserError(
            f"{path} is made for {original.kind}, which this program cannot do: give a model for text to image or"
            " inpainting"
        )


def _tokenizer_folder(given: str | os.PathLike[str] | None, original: Original) -> Path:
    if given is not None:
        hub_id = find_hub_id(given)
        return Path(given) if hub_id is None else fetch_tokenizer(hub_id)
    try:
        return fetch_tokenizer(HubId.of(original.form.tokenizer))
    except UserError as error:
        raise UserError(
            f"{original.path} brings no tokenizer, as no single file does, and the usual one cannot be had ({error}):"
            f" name the tokenizer folder of a {original.label} model (--tokenizer FOLDER, which holds vocab.json and"
            " merges.txt)"
        ) from error


def _tell_of_doubts(original: Original, tokenizer: Tokenizer, folder: Path) -> None:
    if original.unknown:
        note(f"{original.path} has tensors that nothing is known of: {listed(original.unknown)}")
    if not original.certain:
        other = "v" if original.prediction == "noise" else "noise"
        note(
            f"{original.path.name} is taken to predict {original.prediction} ({original.evidence}); if its pictures are"
            f" wrong, say --prediction {other}"
        )
    for doubt in original.said.doubts(original.process):
        note(doubt)
    usual = original.form.pads_with(tokenizer)
    if tokenizer.pad_token != usual:
        note(
            f"the tokenizer in {folder} pads with id {tokenizer.pad_token}, {original.label} with"
            f" {usual}: it belongs to another model"
        )


def _check_sayable(model: StableDiffusion) -> None:
    """What a single file does not say must be as its readers take it for granted."""
    for what, has, taken in single_file_of(model.family).unsayable(model.parts):
        if has != taken:
            raise UserError(
                f"a single file of {model.family.label} cannot say that {what} is {has!r}, its readers take {taken!r}:"
                " write a folder"
            )


def _metadata(model: StableDiffusion, said: dict[str, str]) -> dict[str, str]:
    """Stability's modelspec, the part that readers of a single file need: size, and what is `said` of the process."""
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": model.card.name,
        **said,
        "modelspec.resolution": f"{model.card.size[0]}x{model.card.size[1]}",
    }


def _write(weights: dict[str, Tensor], metadata: dict[str, str], target: Path) -> None:
    try:
        save_tensors(weights, target, metadata)
    except OSError as error:
        raise UserError(f"cannot write: {refusal(error, target)}") from error
