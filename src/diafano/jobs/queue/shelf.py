"""The models that can be asked for by name, and those of them that are in memory."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diafano.checkpoints.loading import EMBEDDED, load
from diafano.errors import UserError
from diafano.stable_diffusion import StableDiffusion

EMBEDDED_NAME = "embedded"
ENDINGS = (".safetensors", ".ckpt")
INDEX = "model_index.json"


@dataclass
class Shelf:
    """Models by name: the embedded one, and what lies in `folders`. At most `most` are in memory, the least lately used
    goes first. Names come from the list alone: nothing that a client sends is joined to a path.
    """

    folders: Sequence[Path] = ()
    most: int = 2
    device: str = "auto"
    dtype: str = "auto"
    on_load: Callable[[str], object] = lambda name: None
    """Told before a model is loaded, which takes its time."""
    loads: int = 0
    """How many were."""
    _held: "OrderedDict[str, StableDiffusion]" = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def names(self) -> dict[str, Path]:
        """All that are there now: diffusers' folders and single files, by their names; the embedded one first."""
        found = {EMBEDDED_NAME: EMBEDDED}
        for folder in self.folders:
            for entry in sorted(os.scandir(folder), key=lambda one: one.name) if folder.is_dir() else []:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if (path / INDEX).is_file():
                    found.setdefault(entry.name, path)
                elif path.suffix.lower() in ENDINGS and path.is_file():
                    found.setdefault(path.stem, path)
        return found

    def find(self, name: str) -> str:
        """The name as the list has it, whatever letters are large. Raises UserError for one that is not there."""
        names = self.names()
        alike = {one.lower(): one for one in names}
        if name in names:
            return name
        if name.lower() in alike:
            return alike[name.lower()]
        raise UserError(f"there is no model {name!r}: use one of {', '.join(names)}")

    def get(self, name: str) -> StableDiffusion:
        """The model, from memory or from disk."""
        with self._lock:
            name = self.find(name)
            if name not in self._held:
                self.on_load(name)
                while len(self._held) >= self.most:
                    self._held.popitem(last=False)
                source = None if name == EMBEDDED_NAME else self.names()[name]
                self._held[name] = load(source, device=self.device, dtype=self.dtype)
                self.loads += 1
            self._held.move_to_end(name)
            return self._held[name]

    @property
    def held(self) -> list[str]:
        """Those in memory, the least lately used first."""
        with self._lock:
            return list(self._held)
