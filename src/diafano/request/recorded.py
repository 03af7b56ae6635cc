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
from diafano.pictures.infotext import UPSCALED_BY, UPSCALER, infotext, parse_infotext, program_of, unread
from diafano.pictures.upscaling import in_table
from diafano.request.programs.table import find_program
from diafano.request.request import Request, Settings, split_sampler_name
from diafano.request.rows import written
from diafano.request.settings import LARGEST_UPSCALE, SETTINGS, ImageToImage, SamplerOptions
from diafano.sampling.samplers.table import find_sampler
from diafano.sampling.sigmas import AUTOMATIC, find_schedule

FIRST = (
    *("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "VAE hash", "VAE"),
    *("Batch size", "Batch pos", "Variation seed", "Variation seed strength", "Denoising strength"),
    *("Mask blur", "Mask mode", "Masked content", "Inpaint area", "Masked area padding", "Outpaint"),
    *("Hires upscale", "Hires resize", "Hires steps", "Hires upscaler"),
    *(UPSCALED_BY, UPSCALER),
    *("Clip skip", "Deep cache", "RNG", "Tiling"),
    *(text.key for name in SamplerOptions.model_fields for text in SETTINGS[name].setting.texts),
)
"""A1111's order of the settings in a text; others come after these, in the order of the table."""

ADDONS = ("VAE hash", "VAE", "Lora hashes", "TI hashes", "Control pictures")
"""Settings that tell of a model's add-ons: see `request.addons.Addons`."""

CONTROLS = "ControlNet "
"""How a setting of a ControlNet begins, see `request.controls.controls_as_infotext`."""

UNDERSTOOD = {
    *(text.key for row in SETTINGS.values() for text in row.setting.texts),
    *("Model", "Model hash", "Version"),
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
    other = request.variation_seed
    of_the_picture = {
        "seed": request.seed + place if request.seed_counts else request.seed,
        "variation_seed": other if other is None or not alone else other + place,
        "batch_size": None if alone or request.whole_batch == 1 else request.whole_batch,
        "batch_position": place,
    }
    said = {
        **dict.fromkeys(FIRST),
        "Model": model,
        **written(request.model_copy(update=of_the_picture), SETTINGS),
        **({} if addons is None else addons),
    }
    said |= {"Like": said.pop("Like", None), "Version": f"diafano {__version__}"}  # last, as they are ours
    return infotext(request.prompt, request.negative, {key: one for key, one in said.items() if one is not None})


def from_infotext(text: str, knows_upscaler: Callable[[str], bool] = in_table) -> Recorded:
    """The request that a picture's text tells of. Raises UserError where it tells of none, or of an impossible one.

    An upscaler that is not known is replaced by Lanczos, and said to be.
    """
    found = parse_infotext(text)
    if not found.settings:
        other = program_of({"": text})
        whose = "" if other is None else f", it is {other}'s"
        raise UserError(
            f"the picture's text {_shown(text)!r} holds no settings of A1111's{whose}: give a picture that diafano or"
            " A1111 has drawn"
        )
    pairs = found.settings
    ours = pairs.get("Version", "").startswith("diafano ")
    settings: dict[str, Any] = {"negative": found.negative, "like": pairs.get("Like") if ours else _program(pairs)}
    chance = _mend_others(pairs) if not ours else []
    one_for_all = find_program(settings["like"]).one_generator_for_all and "Batch pos" in pairs
    skipped = {"Like"} if one_for_all else {"Like", "Batch size", "Batch pos"}
    unknown: list[str] = []
    for name, row in SETTINGS.items():
        for entry in row.setting.texts:
            if entry.key not in pairs or entry.key in skipped:
                continue
            try:
                settings[name] = row.read(entry, pairs[entry.key])
            except KeyError:
                unknown.append(f"{entry.key}: {_shown(pairs[entry.key])}")
            except ValueError:
                raise UserError(
                    f"the picture says {entry.key} {_shown(pairs[entry.key])!r}, which is no number: give it yourself"
                ) from None
    ignored = (
        chance
        + _mend_hires(pairs, settings)
        + _mend_upscalers(settings, knows_upscaler)
        + _mend_sampler(pairs, settings)
        + unknown
    )
    addons = {key: value for key, value in pairs.items() if key in ADDONS or key.startswith(CONTROLS)}
    ignored += [f"{key}: {_shown(value)}" for key, value in pairs.items() if key not in UNDERSTOOD | addons.keys()]
    ignored += map(_shown, unread(text))
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
        "sampler": ("schedule", *SamplerOptions.model_fields),
        "fast": ("sampler", "schedule", "steps", "deep_cache", *SamplerOptions.model_fields),
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
    lost = {name: value for name, value in recorded.settings.items() if name in ImageToImage.model_fields}
    settings = {name: value for name, value in recorded.settings.items() if name not in lost}
    texts = written(checked(ImageToImage, lost), SETTINGS)
    said = [f"{key}: {texts[key]} (there is no --image)" for key in FIRST if key in texts]
    return replace(recorded, settings=settings, ignored=(*recorded.ignored, *said))


def _mend_others(pairs: dict[str, str]) -> list[str]:
    """Bring what other programs write into A1111's form, in its place; returns what is left to chance."""
    if "Schedule type" not in pairs and "Scheduler" in pairs:  # ComfyUI's and Fooocus' word
        pairs["Schedule type"] = pairs.pop("Scheduler")
    if re.fullmatch(r"-\d+", skip := pairs.get("Clip skip", "")):  # ComfyUI counts its layers from the end
        pairs["Clip skip"] = skip[1:]
    if "Size" in pairs and (edges := re.fullmatch(r"(\d+)x(\d+)", pairs["Size"])):  # the picture is the smaller one
        pairs["Size"] = "x".join(str(max(8, int(edge) // 8 * 8)) for edge in edges.groups())
    chance = [f"{key}: {pairs.pop(key)} (by chance)" for key in ("Seed", "Variation seed") if pairs.get(key) == "-1"]
    strength = "Variation seed strength"
    if "Variation seed" not in pairs and strength in pairs:  # which is nothing without it
        chance.append(f"{strength}: {pairs.pop(strength)}")
    return chance


def _program(pairs: Mapping[str, str]) -> str:
    """Which program drew a picture that is not ours: A1111's text is written by A1111 unless it says something else."""
    return "comfyui" if "comfyui" in pairs.get("Version", "").lower() else "a1111"


def _mend_hires(pairs: Mapping[str, str], settings: dict[str, Any]) -> list[str]:
    """Mend what was read of a second pass: A1111 has one name for both strengths. Returns what is not known here."""
    strength = settings.pop("hires_strength", None)
    _mend_hires_size(settings)
    if "hires" not in settings and "hires_size" not in settings:
        return []
    if strength is not None:
        settings["hires_strength"] = settings.pop("strength")
    return []


def _mend_upscalers(settings: dict[str, Any], knows: Callable[[str], bool]) -> list[str]:
    """Put Lanczos in the place of upscalers that are not there; returns what they were."""
    lost: list[str] = []
    if not 1 < settings.get("upscale", 0) <= LARGEST_UPSCALE:
        for name in ("upscale", "upscaler"):
            if name in settings:
                lost.append(f"{SETTINGS[name].setting.texts[0].key}: {settings.pop(name)}")
    for name in ("hires_upscaler", "upscaler"):
        if name in settings and not knows(settings[name]):
            lost.append(f"{SETTINGS[name].setting.texts[0].key}: {settings[name]} (Lanczos instead)")
            settings[name] = "Lanczos"
    return lost


def _mend_hires_size(settings: dict[str, Any]) -> None:
    """A1111 writes 0 for an edge of the second pass that follows from the other one, by the first pass's shape."""
    edges, size = (re.fullmatch(r"(\d+)x(\d+)", str(settings.get(name))) for name in ("hires_size", "size"))
    if edges is None:
        return
    width, height = (int(edge) for edge in edges.groups())
    if width == height == 0:
        del settings["hires_size"]
    elif 0 in (width, height) and size is not None:
        across, down = (max(1, int(edge)) for edge in size.groups())
        settings["hires_size"] = f"{width or height * across // down}x{height or width * down // across}"


def _mend_sampler(pairs: Mapping[str, str], settings: dict[str, Any]) -> list[str]:
    """Put sampler and schedule into the settings, under today's names; returns what is not known here."""
    ignored: list[str] = []
    settings.pop("schedule", None)
    if "sampler" in settings:
        try:
            apart = split_sampler_name({"sampler": settings.pop("sampler")})
            sampler = find_sampler(str(apart["sampler"]))
        except UserError:  # then what was said of how it runs means nothing either
            keys = ["Sampler", *(["Schedule type"] if "Schedule type" in pairs else [])]
            for option in SamplerOptions.model_fields:
                if settings.pop(option, None) is not None:
                    keys += [text.key for text in SETTINGS[option].setting.texts if text.key in pairs]
            return [f"{key}: {_shown(pairs[key])}" for key in keys]
        settings |= apart
        for option in SamplerOptions.model_fields:
            if option in settings and option not in sampler.options:
                key = SETTINGS[option].setting.texts[0].key
                ignored.append(f"{key}: {settings.pop(option)} (of another sampler)")
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


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]}..."
