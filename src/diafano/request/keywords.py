"""The settings as keyword arguments, for type checkers. Written by docs/scripts/settings.py, from the table."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from diafano.pictures.sides import Sides


class Settings(TypedDict, total=False):
    """What can be said of a `Request` besides its prompt, as keyword arguments. None is as if it were left out."""

    negative: str | None
    steps: int | None
    sampler: str | None
    schedule: str | None
    seed: int | None
    size: tuple[int, int] | str | None
    count: int | None
    guidance: float | str | Sequence[float] | None
    guidance_interval: tuple[float, float] | str | None
    guidance_rescale: float | None
    eta: float | None
    s_churn: float | None
    s_tmin: float | None
    s_tmax: float | None
    s_noise: float | None
    variation_seed: int | None
    variation_strength: float | None
    strength: float | None
    mask_blur: float | None
    masked_content: str | None
    invert_mask: bool | None
    only_masked: bool | None
    mask_padding: int | None
    outpaint: str | Mapping[str, int] | Sides | None
    hires: float | None
    hires_size: tuple[int, int] | str | None
    hires_steps: int | None
    hires_strength: float | None
    hires_upscaler: str | None
    upscale: float | None
    upscaler: str | None
    clip_skip: int | None
    deep_cache: int | None
    tileable: bool | str | None
    tiles: bool | None
    fast: int | None
    like: str | None
    rng: str | None
    batch_size: int | None
    batch_position: int | None
