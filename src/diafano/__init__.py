"""Stable Diffusion that you can see through.

    import diafano
    model = diafano.load()
    pictures = model.generate("two red apples on a blue background", seed=7)

Importing this package imports nothing else: torch comes with the first name that needs it.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from diafano.errors import UserError
    from diafano.request import Request
    from diafano.stable_diffusion import StableDiffusion

__version__ = "0.1.0"

__all__ = ["Request", "StableDiffusion", "UserError", "__version__", "load"]

EMBEDDED = Path(__file__).parent / "embedded"
"""Folder of the model that ships with the package."""

HOMES = {
    "Request": "diafano.request",
    "StableDiffusion": "diafano.stable_diffusion",
    "UserError": "diafano.errors",
}
"""Public name -> the module that defines it."""


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    device: "str | torch.device" = "auto",
    dtype: "str | torch.dtype" = "auto",
    tokenizer: str | os.PathLike[str] | None = None,
    prediction: str | None = None,
    ema: bool = False,
) -> "StableDiffusion":
    """A model, ready to draw: the one that ships with the package (None), one in a diffusers folder, or a single file.

    `device` is "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps". `dtype` is "auto" (float32 for small
    models, else the half precision that the device is fast in), "float32", "bfloat16", "float16".

    A single file (``.safetensors``, ``.ckpt``) needs the folder of its `tokenizer`; `prediction` ("noise" or "v")
    overrides what is found out about it, and `ema` takes the running averages of its weights instead of the weights.
    Raises UserError, one sentence, for what cannot be loaded.
    """
    from diafano.checkpoints.diffusers import load_folder
    from diafano.errors import UserError

    folder = EMBEDDED if source is None else Path(source)
    if source is None and not (folder / "model_index.json").is_file():
        raise UserError("this copy of diafano has no embedded model: make one with `make embedded`, or name a folder")
    if not folder.exists():
        raise UserError(
            f"there is no model {str(source)!r}: give a diffusers folder, a checkpoint file, or nothing for the"
            " embedded model"
        )
    if folder.is_file():
        from diafano.checkpoints.original import load_file

        return load_file(folder, device, dtype, tokenizer=tokenizer, prediction=prediction, ema=ema)
    if tokenizer is not None or prediction is not None or ema:
        raise UserError(
            f"{str(folder)!r} is a folder, which says itself: tokenizer, prediction, ema are for single files"
        )
    return load_folder(folder, device=device, dtype=dtype)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module 'diafano' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
