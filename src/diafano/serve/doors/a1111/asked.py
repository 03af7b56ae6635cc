"""What txt2img and img2img say, as our settings; what is asked and cannot be done is an error or a note."""

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, field_validator

from diafano.errors import UserError, collect_notes
from diafano.pictures.masks import filled
from diafano.request.fields import MASKED_CONTENT
from diafano.request.recorded import from_infotext
from diafano.request.request import split_sampler_name
from diafano.sampling.samplers.table import find_sampler

NOT_DONE = ("restore_faces", "refiner_checkpoint", "firstpass_image", "s_min_uncond", "hr_checkpoint_name")
"""What there is nothing for; asked for, it is a note."""
CONTENT = {0: "fill", 1: "original", 2: "latent noise", 3: "latent nothing"}
KNOWN_OVERRIDES = ("sd_model_checkpoint", "CLIP_stop_at_last_layers", "randn_source")


class Unprocessable(UserError):
    """What A1111 answers with 422."""


class Asked(BaseModel):
    """The fields of txt2img; those that are not here are ignored, as there."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int | None = -1
    subseed: int | None = -1
    subseed_strength: float | None = 0.0
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float | None = 7.0
    width: int | None = 512
    height: int | None = 512
    restore_faces: bool | None = None
    tiling: bool | None = None
    eta: float | None = None
    denoising_strength: float | None = None
    s_min_uncond: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    override_settings: dict[str, Any] | None = None
    refiner_checkpoint: str | None = None
    firstpass_image: str | None = None
    enable_hr: bool = False
    hr_scale: float | None = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_prompt: str | None = ""
    hr_negative_prompt: str | None = ""
    force_task_id: str | None = None
    script_name: str | None = None
    send_images: bool = True
    alwayson_scripts: dict[str, Any] | None = None
    infotext: str | None = None

    @field_validator("seed", "subseed", mode="before")
    @classmethod
    def _nothing_is_chance(cls, value: Any) -> Any:
        return -1 if value in (None, "") else value

    @property
    def sampler(self) -> str:
        return self.sampler_name or self.sampler_index or "Euler"


class AskedOver(Asked):
    """The fields of img2img."""

    init_images: list[str] | None = None
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
    mask: str | list[str] | None = None
    mask_blur: float | None = None
    mask_blur_x: float | None = None
    mask_blur_y: float | None = None
    inpainting_fill: int | None = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int | None = 0
    inpainting_mask_invert: int | None = 0
    include_init_images: bool = False

    @property
    def blur(self) -> float:
        given = [one for one in (self.mask_blur, self.mask_blur_x, self.mask_blur_y) if one is not None]
        return max(given) if given else 4.0


def from_text(asked: Asked, sent: set[str]) -> Asked:
    """What an infotext says, where a field was not sent. Raises UserError for a text that is no infotext."""
    if not asked.infotext:
        return asked
    recorded = from_infotext(asked.infotext)
    said = recorded.settings
    size: tuple[int | None, int | None] = (None, None)
    if (words := re.fullmatch(r"(\d+)x(\d+)", str(said.get("size")))) is not None:
        size = int(words[1]), int(words[2])
    found = {
        "prompt": recorded.prompt,
        "negative_prompt": said.get("negative"),
        "steps": said.get("steps"),
        "sampler_name": said.get("sampler"),
        "scheduler": said.get("schedule"),
        "seed": said.get("seed"),
        "cfg_scale": said.get("guidance"),
        "width": size[0],
        "height": size[1],
    }
    return asked.model_copy(
        update={name: value for name, value in found.items() if value is not None and name not in sent}
    )


def settings_of(asked: Asked, step: int) -> tuple[dict[str, Any], list[str]]:
    """Our settings, and notes about what is left out. Sizes are rounded down to multiples of `step`, as there."""
    notes = _left_out(asked)
    with collect_notes() as said:
        named = split_sampler_name({"sampler": asked.sampler})
        sampler = find_sampler(str(named["sampler"]))
    notes += said
    width, height = (_floor(edge or 512, step) for edge in (asked.width, asked.height))
    found: dict[str, Any] = {
        "like": "a1111",
        "negative": asked.negative_prompt,
        "steps": asked.steps,
        "sampler": sampler.name,
        "guidance": 7.0 if asked.cfg_scale is None else asked.cfg_scale,
        "size": [width, height],
        "count": max(1, asked.batch_size) * max(1, asked.n_iter),
        "seed": None if asked.seed in (None, -1) else asked.seed,
        "tileable": "both" if asked.tiling else None,
    }
    if (schedule := named.get("schedule")) is not None:
        found["schedule"] = schedule
    elif asked.scheduler and asked.scheduler.lower() != "automatic":
        found["schedule"] = asked.scheduler
    if asked.subseed_strength:
        found["variation_strength"] = asked.subseed_strength
        found["variation_seed"] = None if asked.subseed == -1 else asked.subseed
    options = {"eta": asked.eta, "s_churn": asked.s_churn, "s_tmin": asked.s_tmin, "s_noise": asked.s_noise}
    options["s_tmax"] = asked.s_tmax or None  # 0 is no limit there
    for name, value in options.items():  # a sampler that has none ignores it, as there
        if value is not None and name in sampler.options:
            found[name] = value
    overrides = asked.override_settings or {}
    if skip := overrides.get("CLIP_stop_at_last_layers"):
        found["clip_skip"] = int(skip)
    if (source := overrides.get("randn_source")) in ("CPU", "GPU", "NV"):
        found["rng"] = "GPU" if source == "NV" else source
    if asked.enable_hr:
        found |= _hires(asked, step)
    return found, notes


def _hires(asked: Asked, step: int) -> dict[str, Any]:
    x, y = asked.hr_resize_x or 0, asked.hr_resize_y or 0
    found: dict[str, Any] = {
        "hires_upscaler": asked.hr_upscaler if asked.hr_upscaler not in (None, "", "None") else "Latent",
        "hires_strength": 0.75 if asked.denoising_strength is None else asked.denoising_strength,
        "hires_steps": asked.hr_second_pass_steps or None,
    }
    if x or y:
        width, height = asked.width or 512, asked.height or 512
        x, y = x or round(y * width / height), y or round(x * height / width)
        return {**found, "hires_size": [_floor(x, step), _floor(y, step)]}
    return {**found, "hires": asked.hr_scale or 2.0}


def over_settings(asked: AskedOver, masked: bool) -> dict[str, Any]:
    """What img2img says beside that."""
    found: dict[str, Any] = {"strength": 0.75 if asked.denoising_strength is None else asked.denoising_strength}
    if masked:
        content = CONTENT.get(asked.inpainting_fill or 0)
        if content not in MASKED_CONTENT:
            raise UserError(f"inpainting_fill {asked.inpainting_fill} is not possible: give 0, 1, 2 or 3")
        found |= {
            "mask_blur": asked.blur,
            "masked_content": content,
            "only_masked": asked.inpaint_full_res,
            "mask_padding": asked.inpaint_full_res_padding or 0,
            "invert_mask": bool(asked.inpainting_mask_invert),
        }
    return found


def resized(picture: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    """The picture brought to (width, height) as A1111's resize modes do: 0 stretched, 1 cropped, 2 filled."""
    if picture.size == size:
        return picture
    if mode == 1:
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    if mode == 2:
        inside = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
        left, top = (size[0] - inside.width) // 2, (size[1] - inside.height) // 2
        whole = Image.new(inside.mode, size)
        whole.paste(inside, (left, top))
        outside = Image.new("L", size, 255)
        outside.paste(0, (left, top, left + inside.width, top + inside.height))
        return filled(whole, outside) if picture.mode == "RGB" else whole
    return picture.resize(size, Image.Resampling.LANCZOS)


def _floor(edge: int, step: int) -> int:
    return max(step, edge // step * step)


def _left_out(asked: Asked) -> list[str]:
    """Notes about what is asked and not done. Raises `Unprocessable` for what would be another picture."""
    notes = [f"{name} is not done here: it is left out" for name in NOT_DONE if getattr(asked, name)]
    if asked.styles:
        notes.append(f"there are no styles here: {', '.join(asked.styles)} left out")
    if asked.script_name:
        raise Unprocessable(f"there is no script {asked.script_name!r} here: leave out script_name")
    if asked.hr_sampler_name and asked.enable_hr and asked.hr_sampler_name != asked.sampler:
        notes.append(f"hr_sampler_name {asked.hr_sampler_name!r} is left out: both passes have one sampler")
    if asked.enable_hr and (asked.hr_prompt or asked.hr_negative_prompt):
        notes.append("hr_prompt and hr_negative_prompt are left out: both passes have one prompt")
    for name in asked.override_settings or {}:
        if name not in KNOWN_OVERRIDES and not name.startswith(("samples_", "live_", "show_", "grid_", "save_")):
            notes.append(f"override_settings {name} is left out: there is no such setting here")
    for name, script in (asked.alwayson_scripts or {}).items():
        if _enabled(script):
            raise Unprocessable(f"the script {name!r} is not done here: leave it out of alwayson_scripts")
    return notes


def _enabled(script: Any) -> bool:
    """Whether a script would change the picture: some unit of it is on."""
    units = script.get("args", []) if isinstance(script, Mapping) else script
    units = units if isinstance(units, list) else [units]
    for unit in units:
        if isinstance(unit, Mapping):
            on = unit.get("enabled")
            if on is True or (on is None and (unit.get("image") or unit.get("input_image"))):
                return True
        elif unit is True:
            return True
    return False
