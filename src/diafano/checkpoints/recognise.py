"""What an original single file is: family, prediction, and what in it is used, spare, missing or suspicious.

Nothing is configured in such a file, so everything is read off names and values; the networks in it are those of
`families.shapes`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diafano.checkpoints.beside import find_beside
from diafano.checkpoints.differences import compare
from diafano.checkpoints.reading import listed, read_with_notes
from diafano.checkpoints.said import Said, read_said
from diafano.engine.memory import MappedFiles
from diafano.errors import UserError
from diafano.families import names as table
from diafano.families.family import CLAIMS, Family, FoundPart, SingleFile
from diafano.families.strangers import stranger
from diafano.families.table import FAMILIES, family_of_tensors, known_families, single_file_of

# Names that are known and not needed, in files of any family -> why.
SPARE = {
    table.EMA: "EMA copies of the UNet",
    "loss.": "training loss",
    "v_pred": "marks v prediction",
    "ztsnr": "marks zero terminal SNR",
}
SCHEDULE_CONSTANTS = re.compile(
    r"(model\.)?(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar"
    r"|scale_factor)"  # the last is honoured, see `said`
)


@dataclass(frozen=True)
class Original:
    """A recognised file. `tensors` are mapped, not read."""

    path: Path
    tensors: Mapping[str, Tensor]
    family: str
    """As in `families.table.FAMILIES`."""
    kind: str
    """What it draws from, such as "text to image"."""
    drawn: bool
    """Whether this program draws with models of that kind."""
    prediction: str
    evidence: str
    """Why `prediction` is believed."""
    certain: bool
    """Whether the evidence is more than a guess."""
    size: tuple[int, int]
    """(width, height) in pixels that it was trained for."""
    said: Said
    """What beside its weights says what they mean."""
    uses_ema: bool
    parts: Mapping[str, FoundPart]
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

    @property
    def label(self) -> str:
        """What people call its family."""
        return FAMILIES[self.family].label

    @property
    def form(self) -> SingleFile:
        """How its family's models lie in one file."""
        return single_file_of(FAMILIES[self.family])

    @property
    def process(self) -> Any:
        """The configuration of its noise process."""
        return self.said.process(self.form.process(self.tensors, self.prediction))

    @property
    def zero_terminal_snr(self) -> bool:
        return bool(getattr(self.process, "zero_terminal_snr", False))

    def used(self, part: str) -> set[str]:
        """Names in the file that the part is made of."""
        return {stored.name for stored in self.parts[part].table.values()} & self.tensors.keys()


def recognise(path: Path, *, prediction: str | None = None, ema: bool = False) -> Original:
    """What the file at `path` is. `prediction` overrides what is found out.

    `ema` takes the UNet's running averages where a file has both; by default the weights themselves are taken, as
    other programs do.
    Raises UserError for a file that cannot be read or is of no family here, by the name of what it is if that is known.
    """
    if prediction not in (None, "noise", "v"):
        raise UserError(f"prediction {prediction!r} is not possible: give noise or v, or leave it out")
    tensors, notes = read_with_notes(path)
    family = _family(tensors, path)
    said = read_said(find_beside(path), tensors, notes)
    form = single_file_of(family)
    for theirs, usual in form.renamed.items():
        tensors = {usual + name[len(theirs) :] if name.startswith(theirs) else name: t for name, t in tensors.items()}
    has_ema = any(name.startswith(table.EMA + "diffusion_model") for name in tensors)
    if ema and not has_ema:
        raise UserError(f"{path} has no EMA copies ({table.EMA}*): leave that option out")

    found = {name: part.find(tensors, path) for name, part in form.parts.items()}
    parts = {name: part for name, part in found.items() if part is not None}
    uses_ema = ema and family.network in parts  # averages alone do not say how their names were divided
    if uses_ema:
        parts[family.network] = averaged(parts[family.network])
    config = parts[family.network].network.config if family.network in parts else None
    predicted = form.prediction(tensors, {**notes, CLAIMS: list(said.claims)}, config, prediction)
    if "autoencoder" in parts:
        said.scale_latents(parts["autoencoder"].network)
    return Original(
        path=path,
        tensors=tensors,
        family=family.name,
        kind=f"unknown, without a {family.network_label}" if config is None else _kind(form, config.in_channels),
        drawn=config is not None and config.in_channels in form.drawn,
        prediction=predicted.predicts,
        evidence=predicted.evidence,
        certain=predicted.certain,
        size=_size(notes) or form.size(predicted.predicts),
        said=said,
        uses_ema=uses_ema,
        parts=parts,
        absent=tuple(name for name in form.parts if name not in parts),
        **_sorted_names(tensors, parts, form),
    )


def averaged(part: FoundPart) -> FoundPart:
    """The same network, of the running averages of its weights."""
    places = {ours: replace(stored, name=table.ema_name(stored.name)) for ours, stored in part.table.items()}
    return replace(part, table=places)


def suspicions(original: Original) -> Iterator[str]:
    """Values that no healthy checkpoint has. Reads every tensor in use once; one at a time is in memory."""
    files = MappedFiles()
    for part in original.parts:
        for name in sorted(original.used(part)):
            tensor = original.tensors[name]
            if not tensor.is_floating_point():
                yield f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not fractions"
                continue
            values = tensor.float() if tensor.itemsize == 1 else tensor  # which torch can ask nothing
            if (broken := tensor.numel() - int(torch.isfinite(values).sum())) > 0:
                yield f"{name} has {broken} values that are NaN or infinite"
            elif name.endswith("weight") and tensor.ndim > 1 and not bool(values.any()):
                yield f"{name} is all zeros"
            files.forget(tensor.data_ptr(), tensor.nbytes)
    if original.said.odd_schedule:
        yield "alphas_cumprod is not the noise schedule of Stable Diffusion"


def _sorted_names(tensors: Mapping[str, Tensor], parts: Mapping[str, FoundPart], form: SingleFile) -> dict[str, Any]:
    """Every name of the file into one of the drawers of `Original`."""
    missing: list[str] = []
    misshapen: list[str] = []
    places: set[str] = set()
    for part in parts.values():
        stored = {ours: one.name for ours, one in part.table.items()}
        places.update(stored.values())
        differences = compare(part.wanted, part.weights(tensors))
        missing += (stored[name] for name in differences.missing)
        misshapen += (f"{stored[name]} {shapes}" for name, shapes in differences.misshapen.items())
    known = SPARE | dict(form.spare(tensors, places))
    own_weights = tuple(part.prefix for name, part in form.parts.items() if name in parts)
    spare: dict[str, list[str]] = {}
    unexpected: list[str] = []
    unknown: list[str] = []
    for name in tensors.keys() - places:
        reason = next((why for prefix, why in known.items() if name.startswith(prefix)), None)
        if SCHEDULE_CONSTANTS.fullmatch(name):
            reason = "constants of the noise schedule"
        elif name.endswith(".position_ids"):
            reason = "constants"
        elif name.startswith(own_weights) and table.ema_name(name) in places:
            reason = "the UNet's own weights, in favour of their EMA copies"
        if reason is not None:
            spare.setdefault(reason, []).append(name)
        elif name.startswith(tuple(part.prefix for part in form.parts.values())):
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


def _family(tensors: Mapping[str, Tensor], path: Path) -> Family:
    """The file's family. Raises UserError, which names what it is as far as that is known, for a file of none."""
    if (what := stranger(tensors)) is not None:
        raise UserError(f"{path} is {what}: give a whole checkpoint of {known_families('or')}")
    family = family_of_tensors(tensors)
    if family is None:
        raise UserError(
            f"{path} is no checkpoint of Stable Diffusion: it has {listed(sorted(tensors))},"
            f" and nothing under {table.UNET}"
        )
    return family


def _size(notes: Mapping[str, Any]) -> tuple[int, int] | None:
    width, _, height = str(notes.get("modelspec.resolution", "")).partition("x")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else None


def _kind(form: SingleFile, channels: int) -> str:
    return form.kinds.get(channels, f"unknown, {channels} input channels")
