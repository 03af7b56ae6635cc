"""What a single file means beside its weights: evidence from constants, metadata, a YAML beside it and its name.

Everything that changes the meaning is honoured or refused by its name; what is only hinted at is told as a doubt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from diafano.checkpoints.beside import NOISE_IN_NAME, PREDICTIONS, V_IN_NAME, ZERO_IN_NAME, Beside
from diafano.errors import UserError, checked
from diafano.families.family import Prediction
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig

REFUSED: Final = {
    "edm_mean": "EDM's preconditioning",
    "edm_std": "EDM's preconditioning",
    "edm_vpred.sigma_max": "v prediction in EDM's noise levels",
    "edm_vpred.sigma_min": "v prediction in EDM's noise levels",
    "model.diffusion_model.time_embed.cond_proj.weight": "a latent consistency model, which is told its guidance",
    "model.diffusion_model.time_embedding.cond_proj.weight": "a latent consistency model, which is told its guidance",
}
"""Tensors that say that the weights are read in another way -> which one."""
BETAS: Final = {"linear": "scaled_linear", "sqrt_linear": "linear"}
"""CompVis' ``beta_schedule`` -> ours."""
HEADS: Final = {"num_heads": (8.0, -1.0), "num_head_channels": (64.0, -1.0)}
"""What a single file's heads are taken to be, which no shape shows."""
OPEN_CLIP_LAYER: Final = "penultimate"


@dataclass(frozen=True)
class Said:
    """Of one file."""

    claims: tuple[Prediction, ...]
    """What its network predicts; the family weighs them."""
    schedule: Mapping[str, Any]
    """Fields of the noise schedule that are said."""
    zero_terminal_snr: str
    """Who says that its last step is pure noise; empty: nobody."""
    only_named: bool
    """Whether it is the name alone."""
    latent_scale: float | None
    stored: Tensor | None
    """The noise schedule that lies in the file."""
    marked: bool
    """Whether the file has the marker of zero terminal SNR."""
    told: tuple[str, ...]
    """What is said and left to the user, as sentences."""
    name: str

    def process(self, config: Any) -> Any:
        """The noise process's configuration with what is said of it."""
        if not isinstance(config, ScheduleConfig):
            return config
        fields = {**config.model_dump(), **self.schedule}
        if self.zero_terminal_snr and config.prediction != "noise":
            fields |= {"zero_terminal_snr": True, "spacing": "trailing", "spacing_said": True, "final_sigma": "zero"}
        return config if fields == config.model_dump() else checked(ScheduleConfig, fields)

    def scale_latents(self, autoencoder: Any) -> None:
        """Give the autoencoder the scale of latents that is said."""
        if self.latent_scale is not None:
            autoencoder.config = autoencoder.config.model_copy(update={"latent_scale": self.latent_scale})

    @property
    def odd_schedule(self) -> bool:
        """Whether the stored noise schedule is none that Stable Diffusion has."""
        plain = ScheduleConfig()
        zero = ScheduleConfig(prediction="v", zero_terminal_snr=True)
        return self.stored is not None and not any(_same(self.stored, config) for config in (plain, zero))

    def doubts(self, config: Any) -> Iterator[str]:
        """Sentences for who draws with the process of that configuration."""
        yield from self.told
        if not isinstance(config, ScheduleConfig):
            return
        if (self.marked or self.zero_terminal_snr) and not config.zero_terminal_snr:
            who = self.zero_terminal_snr or "the file has the marker ztsnr"
            yield f"{self.name}: {who}, which a model that predicts noise cannot have: it is left out"
        elif self.only_named:
            yield f"{self.name} is taken to be trained to zero terminal SNR, as {self.zero_terminal_snr}"
        if self.stored is not None and not _same(self.stored, config):
            yield f"{self.name} has alphas_cumprod of another noise schedule than it is drawn with, which is left out"


def read_said(beside: Beside, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Said:
    """All of it. Raises UserError for what cannot be done."""
    for name, what in REFUSED.items():
        if name in tensors:
            raise UserError(f"{beside.path} has {name}, so it is made for {what}, which cannot be done yet")
    stored = tensors.get("alphas_cumprod", tensors.get("model.alphas_cumprod"))
    zero, only_named = _zero_terminal_snr(beside, notes, stored)
    return Said(
        claims=tuple(_claims(beside)),
        schedule=_schedule(beside),
        zero_terminal_snr=zero,
        only_named=only_named,
        latent_scale=latent_scale(beside, tensors),
        stored=stored,
        marked="ztsnr" in tensors,
        told=tuple(_told(beside, notes)),
        name=beside.path.name,
    )


def latent_scale(beside: Beside, tensors: Mapping[str, Tensor]) -> float | None:
    """What latents are multiplied by, if the file or a YAML beside it says so."""
    kept = tensors.get("scale_factor", tensors.get("model.scale_factor"))
    if kept is not None and kept.numel() == 1 and kept.is_floating_point():  # CompVis keeps it where it was measured
        scale: float | None = float(kept)
    else:
        scale = beside.number("model.params.scale_factor", "params.scale_factor")
    if scale is not None and not 0 < scale < 1e6:
        raise UserError(f"{beside.path} has the scale_factor {scale} of latents, which is not possible: fetch it again")
    return scale


def _claims(beside: Beside) -> Iterator[Prediction]:
    said = beside.says("params.parameterization", "parameterization")
    if said is not None:
        predicts = PREDICTIONS.get(said.lower())
        if predicts is None:
            raise UserError(
                f"{beside.yaml} has parameterization {said!r}, which cannot be done: only eps and v are known"
            )
        yield Prediction(predicts, f"{beside.yaml} has the parameterization {said}")
    elif beside.yaml is not None and beside.says("model.target") is not None:
        yield Prediction("noise", f"{beside.yaml} has no parameterization, which means noise")
    if V_IN_NAME.search(beside.path.stem):
        yield Prediction("v", "its name says so", certain=False)
    elif NOISE_IN_NAME.search(beside.path.stem):
        yield Prediction("noise", "its name says so", certain=False)


def _zero_terminal_snr(beside: Beside, notes: Mapping[str, Any], stored: Tensor | None) -> tuple[str, bool]:
    """Who says it, and whether that is the name alone."""
    if beside.flag("rescale_betas_zero_snr", "zero_terminal_snr", "zero_snr", "zsnr", "ztsnr"):
        return f"{beside.yaml} says zero terminal SNR", False
    if str(notes.get("ss_zero_terminal_snr")).lower() == "true":
        return "the file's metadata says ss_zero_terminal_snr", False
    if stored is not None and _same(stored, ScheduleConfig(prediction="v", zero_terminal_snr=True)):
        return "the file's alphas_cumprod ends at zero", False
    return ("its name says so", True) if ZERO_IN_NAME.search(beside.path.stem) else ("", False)


def _schedule(beside: Beside) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ours, theirs in (
        ("beta_start", "linear_start"),
        ("beta_end", "linear_end"),
        ("steps", "model.params.timesteps"),
    ):
        number = beside.number(theirs)
        if number is not None:
            found[ours] = int(number) if ours == "steps" else number
    said = beside.says("model.params.beta_schedule")
    if said is not None:
        if said not in BETAS:
            raise UserError(f"{beside.yaml} has the beta_schedule {said!r}: only {' and '.join(BETAS)} are known")
        found["kind"] = BETAS[said]
    return found


def _told(beside: Beside, notes: Mapping[str, Any]) -> Iterator[str]:
    for key, known in HEADS.items():
        number = beside.number(f"unet_config.params.{key}")
        if number is not None and number not in known:
            raise UserError(f"{beside.yaml} has {key} = {number:g}, which cannot be done: only {known[0]:g} is known")
    layer, index = (beside.says(f"cond_stage_config.params.{key}") for key in ("layer", "layer_idx"))
    opens = "OpenCLIP" in str(beside.says("cond_stage_config.target"))
    if layer is not None and layer != (OPEN_CLIP_LAYER if opens else "last"):
        which = f"{layer} {index}" if index is not None else layer
        yield f"{beside.yaml} reads the text from the layer {which!r}: the picture may want another clip skip"
    if (skip := notes.get("modelspec.encoder_layer")) not in (None, "", "1", "-1"):
        yield f"{beside.path.name} was made for the text encoder's layer {skip} from the end: say --clip-skip {skip}"
    if span := notes.get("modelspec.timestep_range"):
        yield f"{beside.path.name} was made for the timesteps {span} alone: it is drawn with at all of them"


def _same(stored: Tensor, config: ScheduleConfig) -> bool:
    ours = NoiseSchedule(config).alphas_cumprod
    return stored.shape == ours.shape and bool(torch.allclose(stored.double().cpu(), ours, atol=1e-3))
