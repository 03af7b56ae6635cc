"""Add-ons from files, for a model that is loaded."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from diafano.checkpoints.lora import LoraFiles
from diafano.checkpoints.textual_inversion import add_embeddings
from diafano.checkpoints.upscaler_files import UpscalerFiles
from diafano.checkpoints.vae import with_autoencoder
from diafano.files import at_home
from diafano.stable_diffusion import StableDiffusion

Source = str | os.PathLike[str]
Sources = Source | Mapping[str, Source] | Sequence[Source | Mapping[str, Source]]
"""A folder or, of embeddings, a file; files by the names that prompts call them; or several of these."""


def add(
    model: StableDiffusion,
    *,
    loras: Sources | None = None,
    embeddings: Sources | None = None,
    upscalers: Sources | None = None,
    vae: Source | None = None,
    allow_partial: bool = False,
) -> StableDiffusion:
    """The model with what is given; see `diafano.load`."""
    if vae is not None:
        model = with_autoencoder(model, at_home(vae), allow_partial=allow_partial)
    if embeddings is not None:
        add_embeddings(model, _several(embeddings), allow_partial=allow_partial)
    if upscalers is not None:
        known = model.addons.find_upscaler
        known = known if isinstance(known, UpscalerFiles) else UpscalerFiles(device=model.device)
        model.addons.find_upscaler = known.with_more(*_folders_and_files(upscalers))
    if loras is not None:
        folders, files = _folders_and_files(loras)
        model.addons.find_lora = LoraFiles(model, tuple(folders), files, allow_partial=allow_partial)
    return model


def _folders_and_files(given: Sources) -> tuple[list[Path], dict[str, Source]]:
    folders: list[Path] = []
    files: dict[str, Source] = {}
    for one in _several(given):
        if isinstance(one, Mapping):
            files |= one
        else:
            folders.append(Path(one))
    return folders, files


def _several(given: Sources) -> Sequence[Source | Mapping[str, Source]]:
    several = [given] if isinstance(given, str | os.PathLike | Mapping) else given
    return [
        {name: at_home(path) for name, path in one.items()} if isinstance(one, Mapping) else at_home(one)
        for one in several
    ]
