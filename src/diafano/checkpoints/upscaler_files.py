"""Files of upscalers, found by the names that requests and pictures call them by; A1111's are known, too."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from diafano.checkpoints.addon_files import NEAR_NAMES, files_in, note_nothing_in
from diafano.checkpoints.opening import is_file, is_folder
from diafano.errors import UserError
from diafano.pictures.upscaling import UPSCALERS, Upscaler, key_of

A1111: Final = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "R-ESRGAN General 4xV3": "realesr-general-x4v3",
    "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
    "R-ESRGAN AnimeVideo": "realesr-animevideov3",
    "ESRGAN_4x": "ESRGAN",
}
"""What A1111 calls upscalers -> what their files are called, without their endings. Others go by their files' names."""
OWN = Path("upscaler") / "upscaler.safetensors"
"""In a model's folder: the upscaler that belongs to it."""


class UpscalerFiles:
    """The upscaler of a name: of the table of filters, a model's own, of a file, or of a file in some folders."""

    def __init__(
        self,
        folders: Sequence[Path] = (),
        files: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        own: tuple[str, Path] | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        """`files` goes before `folders`; `own` is a model's own by name. Raises UserError for what is not there."""
        for folder in folders:
            if not is_folder(folder):
                raise UserError(f"there is no folder {str(folder)!r} of upscalers: check the name")
            note_nothing_in(folder, "upscaler")
        self.folders = tuple(folders)
        self.files = {name: Path(path) for name, path in (files or {}).items()}
        for path in self.files.values():
            if not is_file(path):
                raise UserError(f"there is no file {path}: check the name")
        self.own = own
        self._how = device, dtype
        self._loaded: dict[tuple[Path, int], Upscaler] = {}

    def with_more(self, folders: Sequence[Path], files: Mapping[str, str | os.PathLike[str]]) -> "UpscalerFiles":
        """These and others, which go before these."""
        device, dtype = self._how
        return UpscalerFiles(
            (*folders, *self.folders), {**self.files, **files}, own=self.own, device=device, dtype=dtype
        )

    def __call__(self, name: str) -> Upscaler:
        """Raises UserError where there is none of that name, or several, and for a file that is no upscaler."""
        if (found := UPSCALERS.get(key_of(name))) is not None:
            return found
        path = self.path_of(name)
        if path is None:
            raise UserError(self._unknown(name))
        key = path, path.stat().st_mtime_ns
        if key not in self._loaded:
            from diafano.checkpoints.upscaler import load_upscaler

            self._loaded[key] = load_upscaler(path, device=self._how[0], dtype=self._how[1])
        return self._loaded[key]

    def knows(self, name: str) -> bool:
        """Whether there is one of that name, without reading its file."""
        return key_of(name) in UPSCALERS or self.path_of(name) is not None

    def path_of(self, name: str) -> Path | None:
        """The file of that name: by its own name, or as A1111 calls it; case and dashes do not matter."""
        if self.own is not None and key_of(name) == key_of(self.own[0]):
            return self.own[1]
        stem = next((file for label, file in A1111.items() if key_of(label) == key_of(name)), name)
        in_folders = [(path.stem, path) for folder in self.folders for path in files_in(folder)]
        for wanted in (name, stem):
            for there in (list(self.files.items()), in_folders):
                found = [path for other, path in there if other == wanted] or [
                    path for other, path in there if key_of(other) == key_of(wanted)
                ]
                if len(found) > 1:
                    raise UserError(
                        f"there are several upscalers called {name!r},"
                        f" {', '.join(map(str, found[:NEAR_NAMES]))}: give one of them another name"
                    )
                if found:
                    return found[0]
        return None

    def _unknown(self, name: str) -> str:
        stems = [path.stem for folder in self.folders for path in files_in(folder)]
        own = [] if self.own is None else [self.own[0]]
        names = [*own, *self.files, *sorted(stems), *(one.label for one in UPSCALERS.values())]
        near = difflib.get_close_matches(name, names, NEAR_NAMES) or names
        file = next((file for label, file in A1111.items() if key_of(label) == key_of(name)), None)
        called = "that has it" if file is None else f"that has {file}.pth"
        return (
            f"unknown upscaler {name!r}: use one of {', '.join(near)}, or give --upscaler-dir with a folder {called}"
            " (load the model with upscalers=FOLDER)"
        )
