"""An autoencoder alone, to take the place of a model's own.

    folder            diffusers' ``vae`` with its config.json, or a whole model's that has one
    original file     ``encoder.down.…``, with the prefix ``first_stage_model.`` or without; a whole checkpoint too

An original file seldom says by what its latents are multiplied, and old folders do not either: they are a variant of
the model's own autoencoder, whose `latent_scale` then stays. It is said by a checkpoint of Stable Diffusion XL around
it, a tensor ``scale_factor``, metadata, or a YAML beside it.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diafano.checkpoints.addon_files import hash_of
from diafano.checkpoints.beside import find_beside
from diafano.checkpoints.differences import compare
from diafano.checkpoints.opening import is_file, is_folder
from diafano.checkpoints.parts import ReadPart, read_part
from diafano.checkpoints.reading import listed, read_with_notes, weight_files
from diafano.checkpoints.said import latent_scale
from diafano.errors import UserError, note
from diafano.families import names as table
from diafano.families.folder_parts import AUTOENCODER, DIFFUSERS_STEM
from diafano.families.shapes import find_autoencoder
from diafano.families.strangers import is_instead, stranger
from diafano.networks.autoencoder import Autoencoder
from diafano.stable_diffusion import StableDiffusion

HASH_DIGITS = 10
"""Of an autoencoder's hash in A1111's settings."""
FIRST_LAYER = "decoder.conv_in.weight"
SPARE = ("loss.", "model_ema.", f"{table.AUTOENCODER}loss.")
"""What trainers leave in a file of an autoencoder."""
XL_SCALE = 0.13025
"""Stable Diffusion XL's, whose autoencoder has the shape of the first one's."""
XL_IN_NAME = re.compile(r"(?:^|[^a-z])(?:sd)?xl(?:[^a-z]|$)", re.IGNORECASE)
DIFFUSERS_NAMES = "encoder.down_blocks."


@dataclass(frozen=True)
class FoundAutoencoder:
    """An autoencoder that was read, its weights still on the disk."""

    part: ReadPart[Autoencoder]
    says_scale: bool
    """Whether the source says by what latents are multiplied."""
    name: str
    """As A1111 records it: the file's, or the folder's."""
    hash: str


def with_autoencoder(
    model: StableDiffusion, source: str | os.PathLike[str], *, allow_partial: bool = False
) -> StableDiffusion:
    """The model with the autoencoder at `source` instead of its own; all other parts are shared.

    Raises UserError for what is none, is incomplete or belongs to a model of another kind. Tensors that have no place
    in it are an error, with `allow_partial` a note.
    """
    found = find_vae(Path(source), allow_partial=allow_partial)
    own, network = model.autoencoder.config, found.part.part
    if (network.config.latent_channels, network.factor) != (own.latent_channels, model.autoencoder.factor):
        raise UserError(
            f"{source} makes latents of {network.config.latent_channels} channels and a {network.factor}th of a"
            f" picture's edge, and {model.card.name} draws {own.latent_channels} channels and a"
            f" {model.autoencoder.factor}th: it belongs to a model of another kind"
        )
    if not found.says_scale:
        network.config = network.config.model_copy(update={"latent_scale": own.latent_scale})
    elif network.config.latent_scale != own.latent_scale:
        note(
            f"{source} multiplies its latents by {network.config.latent_scale} and {model.card.name}'s own autoencoder"
            f" by {own.latent_scale}: it was hardly made for this model"
        )
    autoencoder = found.part.filled(model.device, model.dtype)
    return model.with_autoencoder(autoencoder, found.name, found.hash)


def find_vae(path: Path, *, allow_partial: bool = False) -> FoundAutoencoder:
    """The autoencoder in a folder or file."""
    if is_folder(path):
        folder = path / "vae" if is_folder(path / "vae") else path
        if not is_file(folder / "config.json"):
            raise UserError(f"{path} holds no autoencoder: give a folder with config.json, or a model's with vae in it")
        read = read_part(folder, AUTOENCODER)
        name = folder.resolve().parent.name if folder.name == "vae" else folder.resolve().name
        return FoundAutoencoder(read, "scaling_factor" in read.settings, name, _hash_of_weights(folder))
    if not is_file(path):
        raise UserError(f"there is no autoencoder {str(path)!r}: give diffusers' folder of one, or its original file")
    tensors, notes = read_with_notes(path)
    part = _original(tensors, path, allow_partial=allow_partial)
    scale = latent_scale(find_beside(path), tensors)
    around = stranger(tensors) or ""
    if "Stable Diffusion XL" in around or "stable-diffusion-xl" in str(notes.get("modelspec.architecture", "")):
        scale = XL_SCALE
    elif scale is None and XL_IN_NAME.search(path.stem):
        note(f"{path.name} is one for Stable Diffusion XL by its name, whose latents have another scale")
    if scale is not None:
        part.part.config = part.part.config.model_copy(update={"latent_scale": scale})
    return FoundAutoencoder(part, scale is not None, path.name, hash_of(path, HASH_DIGITS))


def _original(tensors: Mapping[str, Tensor], path: Path, *, allow_partial: bool) -> ReadPart[Autoencoder]:
    if any(name.startswith(DIFFUSERS_NAMES) for name in tensors):
        raise UserError(f"{path} is in diffusers' form, which needs a config.json: give the folder that has both")
    alone = FIRST_LAYER in tensors
    if alone:
        tensors = {
            f"{table.AUTOENCODER}{name}" if not name.startswith(SPARE) else name: t for name, t in tensors.items()
        }
    found = find_autoencoder(tensors, path)
    if found is None:
        raise UserError(f"{path} {is_instead(tensors, 'autoencoder')}, and no {FIRST_LAYER}")
    weights = found.weights(tensors)
    differences = compare(found.wanted, weights)
    if differences.missing:
        missing = [found.table[name].name for name in differences.missing]
        raise UserError(f"{path} lacks {listed(missing)}: the autoencoder is incomplete, fetch it again")
    if differences.misshapen:
        raise UserError(f"{path} has tensors of a wrong shape, {listed(differences.misshapen)}: fetch it again")
    places = {stored.name for stored in found.table.values()}
    inside = {name for name in tensors if name.startswith(table.AUTOENCODER)}
    left = sorted(name for name in inside - places if not name.startswith(SPARE))
    if left:
        if not allow_partial:
            raise UserError(f"{path} has {listed(left)}, for which an autoencoder has no place: say --allow-partial")
        note(f"{path} has {listed(left)}, for which an autoencoder has no place")
    return ReadPart(found.network, weights, path, {})


def _hash_of_weights(folder: Path) -> str:
    """Of the file that is read, or of the index of its shards."""
    name = next(name for name in weight_files(DIFFUSERS_STEM) if (folder / name).is_file())
    return hash_of(folder / name, HASH_DIGITS)
