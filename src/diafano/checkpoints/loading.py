"""Where a model comes from: the package itself, a folder, a single file, a hub; and what is added to it.

What needs torch is imported when something is loaded.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from diafano.checkpoints.addons import Sources
    from diafano.stable_diffusion import StableDiffusion

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""Folder of the model that ships with the package."""


def is_embedded(source: str | os.PathLike[str] | None) -> bool:
    """Whether the model that ships is meant: by None, or by its name where nothing here is called so."""
    return source is None or (source == "embedded" and not os.path.lexists(source))


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    device: "str | torch.device" = "auto",
    dtype: "str | torch.dtype" = "auto",
    tokenizer: str | os.PathLike[str] | None = None,
    prediction: str | None = None,
    ema: bool = False,
    revision: str | None = None,
    loras: "Sources | None" = None,
    embeddings: "Sources | None" = None,
    upscalers: "Sources | None" = None,
    vae: str | os.PathLike[str] | None = None,
    allow_partial: bool = False,
    compiled: bool = False,
) -> "StableDiffusion":
    """A model, ready to draw: the one that ships (None, or "embedded"), a diffusers folder, a single file, a hub id.

    A hub id is "owner/name" or "owner/name@revision" where nothing here is called so; `revision` is a branch, tag or
    commit. What it needs is downloaded once into the cache of `huggingface_hub`, whose settings and token count.

    `device` is "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps". `dtype` is "auto" (float32 for small
    models, else the half precision that the device is fast in), "float32", "bfloat16", "float16". What became of
    "auto" is `model.dtype`; for a big model, with the reason, it goes to the log "diafano" (INFO) as well.

    A single file (``.safetensors``, ``.ckpt``) has no `tokenizer`: name its folder or hub id, or let the usual one be
    downloaded. `prediction` ("noise" or "v") overrides what is found out about the file, and `ema` takes the running
    averages of its weights instead of the weights.

    `loras` is where the LoRAs that prompts name, as in ``<lora:style:0.8>``, are found: a folder, or a mapping from
    names to files, or a list of these. `embeddings` are files of textual inversions, folders of them, or a mapping
    from the words that prompts have to files. `upscalers` is where the networks that the settings
    `upscaler` and `hires_upscaler` name are found, given as `loras` is. `vae` is an autoencoder in the place of the
    model's own: diffusers' folder of one, or of a whole model, or an original file. A model or an add-on that has
    tensors without a place is an error, unless `allow_partial`.

    `compiled` has torch compile the UNet: a pause before the first picture of each size, then faster steps on a GPU.
    Raises UserError, one sentence, for what cannot be loaded.
    """
    from diafano.engine.memory import without_collecting

    with without_collecting():
        model = _load(source, device, dtype, tokenizer, prediction, ema, revision, vae, allow_partial)
    if any(given is not None for given in (loras, embeddings, upscalers, vae)):
        from diafano.checkpoints import addons

        model = addons.add(
            model, loras=loras, embeddings=embeddings, upscalers=upscalers, vae=vae, allow_partial=allow_partial
        )
    if compiled:
        from diafano.engine.compiled import compile_network

        compile_network(model.unet)
    return model


def _load(
    source: str | os.PathLike[str] | None,
    device: "str | torch.device",
    dtype: "str | torch.dtype",
    tokenizer: str | os.PathLike[str] | None,
    prediction: str | None,
    ema: bool,
    revision: str | None,
    vae: str | os.PathLike[str] | None,
    allow_partial: bool,
) -> "StableDiffusion":
    """The model without add-ons; `vae` is for a single file that has no autoencoder of its own."""
    from diafano.checkpoints.diffusers import load_folder
    from diafano.checkpoints.hub import find_hub_id, load_from_hub
    from diafano.checkpoints.opening import is_file, is_folder
    from diafano.errors import UserError
    from diafano.files import at_home

    source = None if is_embedded(source) else source
    hub_id = find_hub_id(source, revision)
    folder = EMBEDDED if source is None else at_home(source)
    if source is None and not (folder / "model_index.json").is_file():
        raise UserError("this copy of diafano has no embedded model: make one with `make embedded`, or name a folder")
    if hub_id is None and not (is_file(folder) or is_folder(folder)):
        raise UserError(
            f"there is no model {str(source)!r}: give a diffusers folder, a checkpoint file, a hub id (owner/name), or"
            " nothing for the embedded model"
        )
    if folder.name == "model_index.json" and is_file(folder):
        raise UserError(f"{folder} is the list of a model's parts: give its folder, {folder.parent}")
    if folder.is_file():
        from diafano.checkpoints.single_file import load_file

        return load_file(
            folder,
            device,
            dtype,
            tokenizer=tokenizer if tokenizer is None or find_hub_id(tokenizer) else at_home(tokenizer),
            prediction=prediction,
            ema=ema,
            vae=None if vae is None else at_home(vae),
            allow_partial=allow_partial,
        )
    if tokenizer is not None or prediction is not None or ema:
        raise UserError(
            f"{str(folder)!r} is no single file and says itself: tokenizer, prediction, ema are for single files"
        )
    if hub_id is not None:
        return load_from_hub(hub_id, device, dtype, allow_partial=allow_partial)
    return load_folder(folder, device=device, dtype=dtype, allow_partial=allow_partial)
