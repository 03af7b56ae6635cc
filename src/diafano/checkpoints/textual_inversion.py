"""Textual inversions: files of a word that a model learned later, as vectors in the place of token embeddings.

    .pt, .bin of A1111           ``string_to_param`` with one tensor (vectors, width)
    .safetensors of A1111        ``emb_params`` (vectors, width)
    .bin, .safetensors           of diffusers: one tensor (width,) or (vectors, width), named by its word

The word is called as the file is, and as the tensor is where that is named by its word. Pickles go through the
allow-list of `pickles`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diafano.checkpoints.addon_files import files_in, hash_of, note_nothing_in
from diafano.checkpoints.opening import is_folder
from diafano.checkpoints.pickles import is_pickle, read_pickle
from diafano.checkpoints.quantized import check_fractions
from diafano.checkpoints.reading import listed, read_file
from diafano.errors import UserError, note
from diafano.families.presets import family_of_text_width
from diafano.families.strangers import is_instead
from diafano.families.table import known_families
from diafano.stable_diffusion import StableDiffusion

A1111_PICKLE, A1111_TENSOR = "string_to_param", "emb_params"
XL_TENSORS = {"clip_g", "clip_l"}


def add_embedding(
    model: StableDiffusion, path: str | os.PathLike[str], *, name: str | None = None, allow_partial: bool = False
) -> list[str]:
    """Let prompts of `model` use the word in a file; returns what it is called: as `name` says, or as above.

    Raises UserError for a file that holds no such word, or one for another text encoder.
    """
    path = Path(path)
    words = read_embedding(path, allow_partial=allow_partial)
    encoder, tokenizer = model.text_encoder, model.tokenizer
    names: list[str] = []
    for word, vectors in words.items():
        if vectors.shape[1] != encoder.config.width:
            family = family_of_text_width(vectors.shape[1])
            raise UserError(
                f"{path} holds vectors of width {vectors.shape[1]}{f', for {family}' if family else ''}, and the text"
                f" encoder of {model.card.name} takes {encoder.config.width}: it was made for another kind of model"
            )
        if len(vectors) > tokenizer.length - 2:
            raise UserError(
                f"{path} holds {len(vectors)} vectors, more than the {tokenizer.length - 2} that fit a text"
            )
        called = {name} if name is not None else {path.stem, word} if len(words) == 1 else {word}
        ids = encoder.token_embedding.add(vectors)
        for one in sorted(called - {"", A1111_TENSOR}):
            tokenizer.added.add(one, ids, path, names_file=one in (name, path.stem))
            model.addons.words[one.lower()] = (path.stem, hash_of(path))
            names.append(one)
    return names


def add_embeddings(
    model: StableDiffusion,
    sources: Sequence[str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]],
    *,
    allow_partial: bool = False,
) -> None:
    """Add the words of files, of files by name, and of all files in folders, where those that do not fit are told."""
    for source in sources:
        if isinstance(source, Mapping):
            for name, path in source.items():
                add_embedding(model, path, name=name, allow_partial=allow_partial)
        elif not is_folder(Path(source)):
            add_embedding(model, source, allow_partial=allow_partial)
        else:
            misfits = []
            note_nothing_in(Path(source), "textual inversion")
            for path in files_in(Path(source)):
                try:
                    add_embedding(model, path, allow_partial=allow_partial)
                except UserError as error:
                    misfits.append(str(error))
            if misfits:
                note(f"left out of {source}: {listed(misfits)}")


def read_embedding(path: Path, *, allow_partial: bool = False) -> dict[str, Tensor]:
    """Word -> vectors (count, width), float32, of one file; the word is "emb_params" where the file names none.

    Raises UserError for what is no textual inversion, and for tensors beside it, which `allow_partial` makes a note.
    """
    content: Mapping[str, Any] = read_pickle(path) if is_pickle(path) else read_file(path)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    stored = content.get(A1111_PICKLE)
    if stored is not None:
        found = _in_string_to_param(stored, content, path)
    elif tensors.keys() >= XL_TENSORS:
        raise UserError(f"{path} is a textual inversion for Stable Diffusion XL: it does not fit {known_families()}")
    elif A1111_TENSOR in tensors:
        found = {A1111_TENSOR: tensors[A1111_TENSOR]}
    else:
        found = {name: tensor for name, tensor in tensors.items() if _are_vectors(tensor)}
        dotted = [name for name in tensors if name.endswith((".weight", ".bias", ".alpha"))]
        if dotted or not found:
            raise UserError(f"{path} {is_instead(tensors, 'textual inversion')}")
    found = {name: tensor[None] if tensor.ndim == 1 else tensor for name, tensor in found.items()}
    for name, vectors in found.items():
        check_fractions({name: vectors}, path)
        if not _are_vectors(vectors):
            raise UserError(
                f"{path} has {name} of the shape {tuple(vectors.shape)}, which are no vectors (vectors, width): fetch"
                " it again"
            )
        if not bool(torch.isfinite(vectors.float()).all()):  # some formats of 8 bits cannot say it themselves
            raise UserError(
                f"{path} has values in {name} that are NaN or infinite, as after a training that went wrong: use"
                " another file"
            )
    left = sorted(tensors.keys() - found.keys())
    if left:
        if not allow_partial:
            raise UserError(f"{path} has {listed(left)} beside its vectors: fetch it again, or say --allow-partial")
        note(f"{path} has {listed(left)} beside its vectors")
    return {name: vectors.float() for name, vectors in found.items()}


def _in_string_to_param(stored: Any, content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """A1111's pickle names the placeholder, usually ``*``; the word itself is under ``name``."""
    stored = getattr(stored, "parameters", stored)  # a ParameterDict, see `pickles`
    if not isinstance(stored, Mapping) or len(stored) != 1:
        raise UserError(f"{path} has no single entry under {A1111_PICKLE}: fetch it again")
    (tensor,) = stored.values()
    if not isinstance(tensor, Tensor):
        raise UserError(f"{path} has a {type(tensor).__name__} under {A1111_PICKLE}, not vectors: fetch it again")
    name = content.get("name")
    return {name if isinstance(name, str) and name else A1111_TENSOR: tensor.detach()}


def _are_vectors(tensor: Tensor) -> bool:
    """Whether its shape is (width,) or (vectors, width), of fractions that are really stored."""
    stored = tensor.nbytes <= tensor.untyped_storage().nbytes()  # not a few bytes repeated
    return tensor.ndim in (1, 2) and tensor.numel() > 0 and tensor.is_floating_point() and stored
