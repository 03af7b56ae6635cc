"""What a picture records of the request that drew it, and that request again: both ways between a `Request` and A1111's
names for its settings.

Pictures of other programs record more than can be done here. What cannot is listed, never left out in silence.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from diafano import __version__
from diafano.errors import UserError, checked
from diafano.networks.tileable import AXES
from diafano.noise.sources import GENERATORS
from diafano.pictures.infotext import infotext, parse_infotext
from diafano.request.fields import (
    READ_PARTS,
    OverPicture,
    hires_as_infotext,
    hires_from_infotext,
    image_to_image_as_infotext,
    variation_as_infotext,
)
from diafano.request.guidance import READ_GUIDANCE, guidance_as_infotext
from diafano.request.programs.table import find_program
from diafano.request.request import Request, Settings, split_sampler_name
from diafano.sampling.samplers.table import find_sampler
from diafano.sampling.sigmas import AUTOMATIC, find_schedule

OPTIONS = {"eta": "Eta", "s_churn": "Sigma churn", "s_noise": "Sigma noise"}
"""What A1111's text calls the samplers' options."""

ADDONS = ("VAE hash", "VAE", "Lora hashes", "TI hashes", "Control pictures")
"""Settings that tell of a model's add-ons: see `request.addons.Addons`."""

CONTROLS = "ControlNet "
"""How a setting of a ControlNet begins, see `request.controls.controls_as_infotext`."""

READ_ALONE: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("Steps", "steps", int),
    *READ_GUIDANCE,
    ("Seed", "seed", int),
    ("Size", "size", str),
    ("Clip skip", "clip_skip", int),
    ("Deep cache", "deep_cache", int),
    *((key, name, float) for name, key in OPTIONS.items()),
)
"""A1111's name, the setting, and how its text becomes the setting's value."""

UNDERSTOOD = {
    *(key for key, _, _ in (*READ_ALONE, *READ_PARTS)),
    *("Sampler", "Schedule type", "Model", "Model hash", "RNG", "Eta DDIM"),
    *("Tiling", "Batch size", "Batch pos", "Like", "Version"),
    *("Weights", "Input pictures"),  # by which an experiment knows its pictures
    *ADDONS,
}
SCHEDULES_OF_THEIR_OWN = (1, 9)
"""The version of A1111 since which a sampler's name alone means its "automatic" schedule; before, it meant uniform."""

LONGEST_SHOWN = 40
"""Letters of a setting in a warning."""


@dataclass(frozen=True)
class Recorded:
    """What is known of a picture's request."""

    prompt: str
    settings: dict[str, Any]
    """For `StableDiffusion.request`."""
    model: str | None
    """The name of the model that drew it."""
    ignored: tuple[str, ...]
    """What was recorded but cannot be done here, a few words each."""
    addons: dict[str, str] = field(default_factory=dict)
    """What was recorded under `ADDONS`: whether it can be done depends on what the model has."""


def to_infotext(request: Request, place: int, model: str, addons: Mapping[str, object | None] | None = None) -> str:
    """A1111's text for the picture at that place of the request's batch, drawn by the model of that name.

    `addons` are the settings that tell of its add-ons, see `request.addons.Addons.recorded`.
    """
    alone = not find_program(request.like).one_generator_for_all
    settings: dict[str, object | None] = {
        "Steps": request.steps,
        "Sampler": find_sampler(request.sampler).label,
        "Schedule type": find_schedule(request.schedule).label,
        "CFG scale": None,  # here only for its place in A1111's order
        "Seed": request.seed + place if request.seed_counts else request.seed,
        "Size": f"{request.size[0]}x{request.size[1]}",
        "Model": model,
        "VAE hash": None,  # these two only have their place in A1111's order here
        "VAE": None,
        "Batch size": None if alone or request.whole_batch == 1 else request.whole_batch,
        "Batch pos": None if alone or request.whole_batch == 1 else place,
        **variation_as_infotext(request, place if alone else 0),
        **image_to_image_as_infotext(request),
        **hires_as_infotext(request),
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "Deep cache": request.deep_cache if request.deep_cache > 1 else None,
        "RNG": request.rng,
        "Tiling": True if request.tileable == "both" else request.tileable,
        **{OPTIONS[option]: value for option, value in request.sampler_options.items()},
        **guidance_as_infotext(request),
        **({} if addons is None else addons),
        "Like": request.like,
        "Version": f"diafano {__version__}",
    }
    said = {key: value for key, value in settings.items() if value is not None}
    return infotext(request.prompt, request.negative, said)


def from_infotext(text: str) -> Recorded:
    """The request that a picture's text tells of. Raises UserError where it tells of none, or of an impossible one."""
    found = parse_infotext(text)
    if not found.settings:
        raise UserError(
            f"the picture's text {_shown(text)!r} holds no settings: give a picture that diafano or A1111 has drawn"
        )
    pairs = found.settings
    ignored: list[str] = []
    ours = pairs.get("Version", "").startswith("diafano ")
    settings: dict[str, Any] = {"negative": found.negative, "like": pairs.get("Like") if ours else _program(pairs)}
    for key, name, read in (*READ_ALONE, *READ_PARTS):
        if key in pairs:
            settings[name] = _read(read, key, pairs[key])
    if "Eta DDIM" in pairs:
        settings["eta"] = _read(float, "Eta DDIM", pairs["Eta DDIM"])
    if settings.get("clip_skip") == 0:  # some programs say so of the last layer
        del settings["clip_skip"]
    ignored += hires_from_infotext(pairs, settings) + _read_sampler(pairs, settings)
    if "RNG" in pairs:
        rng = pairs["RNG"].upper().replace("NV", "GPU")
        settings["rng"] = rng if rng in GENERATORS else None
        ignored += [] if rng in GENERATORS else [f"RNG: {_shown(rng)}"]
    tiling = pairs.get("Tiling", "false").lower()
    settings["tileable"] = {"true": "both", "false": None}.get(tiling, tiling)
    if settings["tileable"] not in (None, *AXES):
        ignored.append(f"Tiling: {_shown(str(settings.pop('tileable')))}")
    if find_program(settings["like"]).one_generator_for_all and "Batch pos" in pairs:
        settings["batch_size"] = _read(int, "Batch size", pairs.get("Batch size", ""))
        settings["batch_position"] = _read(int, "Batch pos", pairs["Batch pos"])
    addons = {key: value for key, value in pairs.items() if key in ADDONS or key.startswith(CONTROLS)}
    ignored += [f"{key}: {_shown(value)}" for key, value in pairs.items() if key not in UNDERSTOOD | addons.keys()]
    model = pairs.get("Model", f"hash {pairs['Model hash']}" if "Model hash" in pairs else None)
    return Recorded(found.prompt, settings, model, tuple(ignored), addons)


def with_overrides(recorded: Recorded, given: Settings) -> Settings:
    """The recorded settings, and those in `given` that are not None instead of them.

    What belonged to a setting that was replaced goes with it: the schedule and the options of a sampler, the generator
    of a program, the place in a batch.
    """
    said = {name: value for name, value in given.items() if value is not None}
    settings = dict(recorded.settings)
    goes_with = {
        "hires": ("hires_size",),
        "hires_size": ("hires",),
        "sampler": ("schedule", *OPTIONS),
        "fast": ("sampler", "schedule", "steps", "deep_cache", *OPTIONS),
        "like": ("rng", "batch_size", "batch_position"),
        "variation_seed": ("batch_size", "batch_position"),
        "seed": ("batch_size", "batch_position"),
        "count": ("batch_size", "batch_position"),
    }
    for name in said.keys() & goes_with.keys():
        for other in goes_with[name]:
            settings.pop(other, None)
    return cast(Settings, settings | said)


def without_picture(recorded: Recorded) -> Recorded:
    """What remains to be done where the picture that was drawn over is not there."""
    lost = {name: value for name, value in recorded.settings.items() if name in OverPicture.model_fields}
    settings = {name: value for name, value in recorded.settings.items() if name not in lost}
    said = [
        f"{key}: {said} (there is no --image)"
        for key, said in image_to_image_as_infotext(checked(OverPicture, lost)).items()
        if said is not None
    ]
    return replace(recorded, settings=settings, ignored=(*recorded.ignored, *said))


def _program(pairs: Mapping[str, str]) -> str:
    """Which program drew a picture that is not ours: A1111's text is written by A1111 unless it says something else."""
    return "comfyui" if "comfyui" in pairs.get("Version", "").lower() else "a1111"


def _read_sampler(pairs: Mapping[str, str], settings: dict[str, Any]) -> list[str]:
    """Put sampler and schedule into the settings, under today's names; returns what is not known here."""
    ignored: list[str] = []
    if "Sampler" in pairs:
        try:
            apart = split_sampler_name({"sampler": pairs["Sampler"]})
            find_sampler(str(apart["sampler"]))
        except UserError:
            return [f"Sampler: {_shown(pairs['Sampler'])}"]
        settings |= apart
        for option in (option for option in OPTIONS if option in settings):
            if option not in find_sampler(str(apart["sampler"])).options:
                ignored.append(f"{OPTIONS[option]}: {settings.pop(option)} (of another sampler)")
    schedule = pairs.get("Schedule type", "").strip()
    if schedule.lower() == AUTOMATIC or (not schedule and "schedule" not in settings and _is_recent(pairs)):
        settings.setdefault("schedule", AUTOMATIC)
    elif schedule:
        with contextlib.suppress(UserError):
            settings["schedule"] = find_schedule(schedule).name
            return ignored
        settings.setdefault("schedule", AUTOMATIC)
        ignored.append(f"Schedule type: {_shown(schedule)}")
    else:
        settings.setdefault("schedule", "uniform")
    return ignored


def _is_recent(pairs: Mapping[str, str]) -> bool:
    version = re.search(r"v(\d+)\.(\d+)", pairs.get("Version", ""))
    return version is not None and tuple(int(number) for number in version.groups()) >= SCHEDULES_OF_THEIR_OWN


def _read(kind: Callable[[str], Any], key: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"the picture says {key} {_shown(value)!r}, which is no number: give it yourself") from None


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]}..."
