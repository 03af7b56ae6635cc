"""Add-ons from files, for a model that is loaded."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from diafano.checkpoints.lora import LoraFiles
from diafano.stable_diffusion import StableDiffusion

Source = str | os.PathLike[str]
Loras = Source | Mapping[str, Source] | Sequence[Source | Mapping[str, Source]]
"""A folder of LoRAs, files by the names that prompts call them, or several of these."""


def add(model: StableDiffusion, *, loras: Loras | None = None, allow_partial: bool = False) -> None:
    """Add what is given to the model; see `diafano.load`."""
    if loras is not None:
        folders: list[Path] = []
        files: dict[str, Source] = {}
        for given in [loras] if isinstance(loras, str | os.PathLike | Mapping) else loras:
            if isinstance(given, Mapping):
                files |= given
            else:
                folders.append(Path(given))
        model.addons.find_lora = LoraFiles(model, tuple(folders), files, allow_partial=allow_partial)
