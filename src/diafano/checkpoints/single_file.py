"""The original single file: everything in one ``.safetensors`` (or ``.ckpt``), as CompVis and Stability publish it.

`recognise` says what a file is, `load_file` makes a model of it, `save_file` writes one back. The file holds weights
only: the tokenizer comes from elsewhere, and what the form cannot say (`_check_sayable`) is not written.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from diafano.checkpoints.hub import TOKENIZERS, fetch_tokenizer, find_hub_id
from diafano.checkpoints.reading import assign_weights, listed
from diafano.checkpoints.recognise import KINDS, PARTS, Original, recognise
from diafano.checkpoints.vae import find_vae
from diafano.checkpoints.writing import save_tensors, storable
from diafano.engine.devices import find_device, find_dtype
from diafano.errors import UserError, note
from diafano.families import names as table
from diafano.families.shapes import HEAD_WIDTH, SD1_HEADS
from diafano.files import whole_file
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import ModelCard, StableDiffusion
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer

SUFFIX: Final = ".safetensors"
"""What a path that `save_file` writes to ends in."""
DRAWN = (KINDS[4], KINDS[9])
"""Kinds of models that `StableDiffusion` knows how to draw with."""
SPELLED = {"unet": "UNet", "autoencoder": "autoencoder", "text_encoder": "text encoder"}


def load_file(
    path: str | os.PathLike[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    prediction: str | None = None,
    ema: bool = False,
    vae: str | os.PathLike[str] | None = None,
) -> StableDiffusion:
    """The model in an original single file; `tokenizer` is where its tokenizer is, which the file does not hold.

    That is a folder or a hub id; None is the one on the hub that the file's family was trained with. See `recognise`
    for `prediction` and `ema`. `vae` is where the autoencoder of a file without one is.
    Raises UserError, one sentence, for whatever is missing or unknown.
    Warns of tensors that are not known, and where noise or v prediction is only a guess.
    """
    original = recognise(Path(path), prediction=prediction, ema=ema)
    lent = find_vae(Path(vae)).part if vae is not None and "autoencoder" in original.absent else None
    check_complete(original, lent=() if lent is None else ("autoencoder",))
    folder = _tokenizer_folder(tokenizer, original)
    words = Tokenizer.from_folder(folder)
    text_encoder, unet = (original.parts[name].network for name in ("text_encoder", "unet"))
    autoencoder = original.parts["autoencoder"].network if lent is None else lent.network
    assert isinstance(text_encoder, CLIPTextEncoder)
    assert isinstance(unet, UNet)
    assert isinstance(autoencoder, Autoencoder)
    text_encoder.config = text_encoder.config.model_copy(
        update={"start_token": words.start_token, "end_token": words.end_token, "pad_token": words.pad_token}
    )
    _tell_of_doubts(original, words, folder)

    device = find_device(device)
    networks: dict[str, nn.Module] = {"text_encoder": text_encoder, "unet": unet, "autoencoder": autoencoder}
    dtype = find_dtype(dtype, device, sum(one.numel() for part in networks.values() for one in part.parameters()))
    for name, network in networks.items():
        if lent is not None and network is autoencoder:
            lent.filled(device, dtype)
            continue
        weights = original.parts[name].weights(original.tensors)
        assign_weights(network, weights, device=device, dtype=dtype, where=Path(path))
    schedule = NoiseSchedule(schedule_of(original))
    card = ModelCard(name=Path(path).stem, size=original.size)
    return StableDiffusion(words, text_encoder, unet, autoencoder, schedule, card)


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
    if model.schedule.config.zero_terminal_snr:
        weights["ztsnr"] = torch.zeros(1)
    _write(weights, _metadata(model), target)


def original_weights(model: StableDiffusion) -> dict[str, Tensor]:
    """All weights of the model under the original's names and in its form."""
    unet, autoencoder, text = (part.state_dict() for part in (model.unet, model.autoencoder, model.text_encoder))
    if _is_second(model):
        text_table = table.open_clip_table(text, _clip_config(model).layers)
    else:
        text_table = table.clip_table(text)
    return {
        **table.to_original(unet, table.unet_table(model.unet.config, unet)),
        **table.to_original(autoencoder, table.autoencoder_table(model.autoencoder.config, autoencoder)),
        **table.to_original(text, text_table),
    }


def schedule_of(original: Original) -> ScheduleConfig:
    """The family's noise schedule, as its authors' scheduler files say it, with the file's prediction."""
    if original.zero_terminal_snr:
        return ScheduleConfig(prediction=original.prediction, zero_terminal_snr=True, spacing="trailing")
    return ScheduleConfig(prediction=original.prediction, final_sigma="first", spacing_said=False)


def check_complete(original: Original, lent: Collection[str] = ()) -> None:
    """Raises UserError, one sentence, unless a model that draws from text, or fills in pictures, can be made of it.

    `lent` are parts that come from elsewhere.
    """
    path = original.path
    for part in (part for part in original.absent if part not in lent):
        how = " or one with --vae SOURCE" if part == "autoencoder" else ""
        raise UserError(
            f"{path} holds no {SPELLED[part]} (nothing under {PARTS[part]}): it cannot draw alone, give a file with"
            f" all parts{how}"
        )
    if original.missing:
        raise UserError(f"{path} lacks {listed(original.missing)}: fetch it again")
    if original.misshapen:
        raise UserError(f"{path} has tensors of a wrong shape, {listed(original.misshapen)}: fetch it again")
    if original.unexpected:
        raise UserError(
            f"{path} has {listed(original.unexpected)}, which Stable Diffusion {original.family[-1]} has no place for:"
            " it is a model of another kind"
        )
    if original.kind not in DRAWN:
        raise UserError(
            f"{path} is made for {original.kind}, which this program cannot do: give a model for text to image or"
            " inpainting"
        )


def _tokenizer_folder(given: str | os.PathLike[str] | None, original: Original) -> Path:
    if given is not None:
        hub_id = find_hub_id(given)
        return Path(given) if hub_id is None else fetch_tokenizer(hub_id)
    try:
        return fetch_tokenizer(TOKENIZERS[original.family])
    except UserError as error:
        raise UserError(
            f"{original.path} brings no tokenizer, as no single file does, and the usual one cannot be had ({error}):"
            f" name the tokenizer folder of a Stable Diffusion {original.family[-1]} model (--tokenizer FOLDER, which"
            " holds vocab.json and merges.txt)"
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
    usual = tokenizer.end_token if original.family == "sd1" else 0
    if tokenizer.pad_token != usual:
        note(
            f"the tokenizer in {folder} pads with id {tokenizer.pad_token}, Stable Diffusion {original.family[-1]}"
            f" with {usual}: it belongs to another model"
        )


def _check_sayable(model: StableDiffusion) -> None:
    """What a single file does not say must be as its readers take it for granted."""
    unet, autoencoder, schedule = model.unet.config, model.autoencoder.config, model.schedule.config
    text = _clip_config(model)
    second = _is_second(model)
    heads = tuple(max(1, width // HEAD_WIDTH) for width in unet.widths) if second else (SD1_HEADS,) * len(unet.widths)
    family = "2" if second else "1"
    taken = ScheduleConfig(prediction=schedule.prediction)
    facts: list[tuple[str, object, object]] = [
        ("the UNet's heads", unet.heads, heads),
        ("the UNet's groups", unet.groups, UNetConfig().groups),
        ("the autoencoder's groups", autoencoder.groups, AutoencoderConfig().groups),
        ("the autoencoder's latent_scale", autoencoder.latent_scale, AutoencoderConfig().latent_scale),
        ("the text encoder's heads", text.heads, max(1, text.width // HEAD_WIDTH)),
        ("the text encoder's activation", text.activation, "gelu" if second else "quick_gelu"),
        ("the text encoder's norm_eps", text.norm_eps, CLIPTextConfig().norm_eps),
        ("the UNet's linear_projection", unet.linear_projection, second),
        ("the schedule's prediction", schedule.prediction, "v" if schedule.prediction == "v" else "noise"),
        *(
            (f"the schedule's {name}", getattr(schedule, name), getattr(taken, name))
            for name in ("steps", "kind", "beta_start", "beta_end")
        ),
    ]
    for what, has, can_be in facts:
        if has != can_be:
            raise UserError(
                f"a single file of Stable Diffusion {family} cannot say that {what} is {has!r}, its readers take"
                f" {can_be!r}: write a folder"
            )


def _is_second(model: StableDiffusion) -> bool:
    """Whether the model is of the second family, whose text encoder is OpenCLIP's."""
    return _clip_config(model).activation == "gelu"


def _clip_config(model: StableDiffusion) -> CLIPTextConfig:
    config = model.text_encoder.config
    if not isinstance(config, CLIPTextConfig):
        raise UserError("a single file has no names for a BERT text encoder: write a folder")
    return config


def _metadata(model: StableDiffusion) -> dict[str, str]:
    """Stability's modelspec, the part that readers of a single file need: prediction and size."""
    config = model.schedule.config
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": model.card.name,
        "modelspec.prediction_type": "v" if config.prediction == "v" else "epsilon",
        "modelspec.resolution": f"{model.card.size[0]}x{model.card.size[1]}",
    }


def _write(weights: dict[str, Tensor], metadata: dict[str, str], target: Path) -> None:
    try:
        with whole_file(target) as unfinished:
            save_tensors(weights, unfinished, metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{target} cannot be written ({error}): make room, or choose another place") from error
