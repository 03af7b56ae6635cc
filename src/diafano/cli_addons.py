"""The options of `diafano generate` that add something to the model: what they become for `diafano.load`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diafano.errors import UserError


@dataclass(frozen=True)
class AddonOptions:
    """As they were typed."""

    lora: Sequence[str] = ()
    """Files, each with ":strength" behind it or without."""
    lora_dir: Sequence[Path] = ()
    embedding: Sequence[Path] = ()
    vae: Path | None = None
    allow_partial: bool = False

    @property
    def lora_names(self) -> set[str]:
        return {path.stem for path, _ in map(with_strength, self.lora)}

    def loading(self) -> dict[str, Any]:
        """For `diafano.load`."""
        files: dict[str, Path] = {}
        for path, _ in map(with_strength, self.lora):
            if files.setdefault(path.stem, path) != path:
                raise UserError(f"--lora names two files called {path.stem}: give one of them another name")
        loras = [*self.lora_dir, files]
        return {
            "loras": loras if any(loras) else None,
            "embeddings": list(self.embedding) or None,
            "vae": self.vae,
            "allow_partial": self.allow_partial,
        }

    def spoken(self, prompt: str) -> str:
        """The prompt with a tag for each LoRA that was typed."""
        from diafano.lora_tags import with_tag

        for path, strength in map(with_strength, self.lora):
            prompt = with_tag(prompt, path.stem, strength)
        return prompt


def with_strength(typed: str) -> tuple[Path, float | None]:
    """``style.safetensors:0.8`` -> (style.safetensors, 0.8)."""
    match = re.fullmatch(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+))", typed)
    return (Path(typed), None) if match is None else (Path(match[1]), float(match[2]))
