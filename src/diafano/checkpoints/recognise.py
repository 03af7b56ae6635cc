"""What an original single file is: family, prediction, and what in it is used, spare, missing or suspicious.

Nothing is configured in such a file, so everything is read off names and values; the networks in it are those of
`families.shapes`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diafano.checkpoints.pickles import is_pickle, read_pickled_weights
from diafano.checkpoints.reading import listed, read_safetensors
from diafano.engine.memory import MappedFiles
from diafano.errors import UserError
from diafano.families import names as table
from diafano.families.shapes import Part, count, find_autoencoder, find_text_encoder, find_unet
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig

Prediction = Literal["noise", "v"]

SD2_TEXT_WIDTH = 1024
V_DEVIATION = 0.09
"""ComfyUI's line between 2.x models that predict noise and those that predict v, on `V_TENSOR`."""
V_TENSOR = "transformer_blocks.0.norm1.bias"

# Names that no Stable Diffusion 1 or 2 has -> what has them. The first that is found is told.
STRANGERS = {
    "conditioner.embedders.": "a Stable Diffusion XL checkpoint",
    "model.diffusion_model.label_emb.": "a checkpoint with class labels (Stable Diffusion XL, or an upscaler)",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "double_blocks.": "a Flux checkpoint",
    "control_model.": "a ControlNet",
    "lora_unet_": "a LoRA, which changes a model and is none",
    "lora_te_": "a LoRA, which changes a model and is none",
    "string_to_param": "a textual inversion, which adds a word to a model and is none",
    "emb_params": "a textual inversion, which adds a word to a model and is none",
    "down_blocks.": "one part of a diffusers folder",
    "encoder.down": "an autoencoder alone",
    "text_model.": "a text encoder alone",
}
# Names that are known and not needed -> why.
SPARE = {
    table.EMA: "EMA copies of the UNet",
    "loss.": "training loss",
    f"{table.AUTOENCODER}loss.": "training loss",
    f"{table.OPEN_CLIP}logit_scale": "CLIP's head, which texts for pictures do not need",
    f"{table.OPEN_CLIP}text_projection": "CLIP's head, which texts for pictures do not need",
    f"{table.OPEN_CLIP}attn_mask": "constants",
    f"{table.CLIP_UNPREFIXED}text_projection": "CLIP's head, which texts for pictures do not need",
    f"{table.CLIP_UNPREFIXED}logit_scale": "CLIP's head, which texts for pictures do not need",
    "cond_stage_model.logit_scale": "CLIP's head, which texts for pictures do not need",
    "cond_stage_model.text_projection": "CLIP's head, which texts for pictures do not need",
    "depth_model.": "the network that estimates depth",
    "v_pred": "marks v prediction",
    "ztsnr": "marks zero terminal SNR",
}
SCHEDULE_CONSTANTS = re.compile(
    r"(model\.)?(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar"
    r"|scale_factor)"
)
KINDS = {
    4: "text to image",
    5: "depth to picture (5 input channels: latent, depth)",
    7: "upscaling (7 input channels: latent, small picture)",
    8: "editing by instruction (8 input channels: latent, latent of the picture)",
    9: "inpainting (9 input channels: latent, mask, latent of the masked picture)",
}
PARTS = {"unet": table.UNET, "autoencoder": table.AUTOENCODER, "text_encoder": "cond_stage_model."}


@dataclass(frozen=True)
class Original:
    """A recognised file. `tensors` are mapped, not read."""

    path: Path
    tensors: Mapping[str, Tensor]
    family: Literal["sd1", "sd2"]
    kind: str
    """What it draws from, such as "text to image"."""
    prediction: Prediction
    evidence: str
    """Why `prediction` is believed."""
    certain: bool
    """Whether the evidence is more than a guess."""
    size: tuple[int, int]
    """(width, height) in pixels that it was trained for."""
    zero_terminal_snr: bool
    uses_ema: bool
    parts: Mapping[str, Part]
    absent: tuple[str, ...]
    """Parts of which the file has nothing."""
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Tensors that lie within a part and have no place there: the part is another than was recognised."""
    unknown: tuple[str, ...]
    """Tensors outside the parts that nothing is known of."""
    spare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reason -> tensors that are known and not needed."""

    def used(self, part: str) -> set[str]:
        """Names in the file that the part is made of."""
        return {stored.name for stored in self.parts[part].table.values()} & self.tensors.keys()


def recognise(path: Path, *, prediction: str | None = None, ema: bool = False) -> Original:
    """What the file at `path` is. `prediction` overrides what is found out.

    `ema` takes the UNet's running averages where a file has both; by default the weights themselves are taken, as
    other programs do.
    Raises UserError for a file that cannot be read or is no Stable Diffusion 1 or 2.
    """
    if prediction not in (None, "noise", "v"):
        raise UserError(f"prediction {prediction!r} is not possible: give noise or v, or leave it out")
    tensors, notes = read_pickled_weights(path) if is_pickle(path) else read_safetensors(path)
    _check_is_one(tensors, path)
    has_ema = any(name.startswith(table.EMA + "diffusion_model") for name in tensors)
    has_unet = any(name.startswith(table.UNET) for name in tensors)
    if ema and not has_ema:
        raise UserError(f"{path} has no EMA copies ({table.EMA}*): leave that option out")
    uses_ema = ema and has_unet  # averages alone do not say how their names were divided

    found_parts = {
        "unet": find_unet(tensors, path, ema=uses_ema),
        "autoencoder": find_autoencoder(tensors, path),
        "text_encoder": find_text_encoder(tensors, path),
    }
    parts = {name: part for name, part in found_parts.items() if part is not None}
    unet = parts["unet"].network if "unet" in parts else None
    unet_config = unet.config if isinstance(unet, UNet) else None
    open_clip = any(name.startswith(table.OPEN_CLIP) for name in tensors)
    second = open_clip or (unet_config is not None and unet_config.text_width == SD2_TEXT_WIDTH)
    found, evidence, certain = _prediction(tensors, notes, second=second, unet=unet_config, asked=prediction)
    return Original(
        path=path,
        tensors=tensors,
        family="sd2" if second else "sd1",
        kind="unknown, without a UNet" if unet_config is None else _kind(unet_config),
        prediction=found,
        evidence=evidence,
        certain=certain,
        size=_size(notes, second=second and found == "v"),
        zero_terminal_snr="ztsnr" in tensors,
        uses_ema=uses_ema,
        parts=parts,
        absent=tuple(name for name in PARTS if name not in parts),
        **_sorted_names(tensors, parts),
    )


def suspicions(original: Original) -> Iterator[str]:
    """Values that no healthy checkpoint has. Reads every tensor in use once; one at a time is in memory."""
    files = MappedFiles()
    for part in original.parts:
        for name in sorted(original.used(part)):
            tensor = original.tensors[name]
            if not tensor.is_floating_point():
                yield f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not fractions"
            elif (broken := tensor.numel() - int(torch.isfinite(tensor).sum())) > 0:
                yield f"{name} has {broken} values that are NaN or infinite"
            elif name.endswith("weight") and tensor.ndim > 1 and not bool(tensor.any()):
                yield f"{name} is all zeros"
            files.forget(tensor.data_ptr(), tensor.nbytes)
    stored = original.tensors.get("alphas_cumprod")
    if stored is not None and not original.zero_terminal_snr:
        ours = NoiseSchedule(ScheduleConfig()).alphas_cumprod
        if stored.shape != ours.shape or not torch.allclose(stored.double(), ours, atol=1e-3):
            yield "alphas_cumprod is not the noise schedule of Stable Diffusion"


def _prediction(
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, Any],
    *,
    second: bool,
    unet: UNetConfig | None,
    asked: str | None,
) -> tuple[Prediction, str, bool]:
    """What the UNet predicts, the evidence, and whether that is certain."""
    if asked is not None:
        return "v" if asked == "v" else "noise", "as asked for", True
    said = str(notes.get("modelspec.prediction_type", "")).lower()
    if said in ("v", "v_prediction", "epsilon", "noise"):
        return "v" if said.startswith("v") else "noise", f"the file's metadata says prediction_type {said}", True
    if "v_pred" in tensors:
        return "v", "the file has the marker v_pred", True
    if not second:
        return "noise", "every Stable Diffusion 1 of its authors does", True
    if unet is None or unet.in_channels != 4:
        return "noise", "every Stable Diffusion 2 that takes more than a latent does", True
    last = [name for name in tensors if name.startswith(f"{table.UNET}output_blocks.") and name.endswith(V_TENSOR)]
    if not last:
        return "noise", "nothing in the file says otherwise", False
    name = max(last, key=lambda name: int(name.split(".")[3]))
    deviation = tensors[name].float().std(correction=0).item()
    v = deviation > V_DEVIATION
    compared = "above" if v else "not above"
    evidence = f"{name} spreads by {deviation:.3f}, {compared} {V_DEVIATION}, as in 2.x models that predict"
    return ("v", f"{evidence} v", False) if v else ("noise", f"{evidence} noise", False)


def _sorted_names(tensors: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Any]:
    """Every name of the file into one of the drawers of `Original`."""
    missing: list[str] = []
    misshapen: list[str] = []
    places: set[str] = set()
    for part in parts.values():
        wanted = part.wanted
        for ours, stored in part.table.items():
            places.add(stored.name)
            if stored.name not in tensors:
                missing.append(stored.name)
                continue
            shape = tuple(stored.ours(tensors[stored.name]).shape)
            if shape != tuple(wanted[ours].shape):
                misshapen.append(f"{stored.name} {shape} instead of {tuple(wanted[ours].shape)}")
    last = _unused_layer(tensors, places)
    spare: dict[str, list[str]] = {}
    unexpected: list[str] = []
    unknown: list[str] = []
    for name in tensors.keys() - places:
        reason = next((why for prefix, why in SPARE.items() if name.startswith(prefix)), None)
        if SCHEDULE_CONSTANTS.fullmatch(name):
            reason = "constants of the noise schedule"
        elif name.endswith(".position_ids"):
            reason = "constants"
        elif last is not None and name.startswith(last):
            reason = "CLIP's last layer, which Stable Diffusion 2 leaves out"
        elif "unet" in parts and name.startswith(table.UNET) and table.ema_name(name) in places:
            reason = "the UNet's own weights, in favour of their EMA copies"
        if reason is not None:
            spare.setdefault(reason, []).append(name)
        elif name.startswith(tuple(PARTS.values())):
            unexpected.append(name)
        else:
            unknown.append(name)
    return {
        "missing": tuple(dict.fromkeys(missing)),
        "misshapen": tuple(dict.fromkeys(misshapen)),
        "unexpected": tuple(sorted(unexpected)),
        "unknown": tuple(sorted(unknown)),
        "spare": {why: tuple(sorted(found)) for why, found in sorted(spare.items())},
    }


def _unused_layer(tensors: Mapping[str, Tensor], places: set[str]) -> str | None:
    """The prefix of OpenCLIP's last layer where it is stored and not used."""
    start = f"{table.OPEN_CLIP}transformer.resblocks."
    last = f"{start}{count(tensors, start) - 1}."
    return None if any(name.startswith(last) for name in places) else last


def _check_is_one(tensors: Mapping[str, Tensor], path: Path) -> None:
    for prefix, what in STRANGERS.items():
        if any(name.startswith(prefix) for name in tensors):
            raise UserError(f"{path} is {what}: give a whole checkpoint of Stable Diffusion 1 or 2")
    if not any(name.startswith((*PARTS.values(), table.EMA)) for name in tensors):
        raise UserError(
            f"{path} is no checkpoint of Stable Diffusion: it has {listed(sorted(tensors))},"
            f" and nothing under {table.UNET}"
        )


def _size(notes: Mapping[str, Any], *, second: bool) -> tuple[int, int]:
    width, _, height = str(notes.get("modelspec.resolution", "")).partition("x")
    if width.isdigit() and height.isdigit():
        return int(width), int(height)
    return (768, 768) if second else (512, 512)


def _kind(config: UNetConfig) -> str:
    return KINDS.get(config.in_channels, f"unknown, {config.in_channels} input channels")
