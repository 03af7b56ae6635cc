"""What someone asks for, checked once: the same for the command line, the server and Python.

Everything that is wrong with a request is one sentence (`UserError`) that names the setting, its value and what is
possible. What depends on the model, such as the sizes it can draw, is checked by the model.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from diafano.errors import UserError
from diafano.networks.tileable import AXES
from diafano.request.fields import (
    OverPicture,
    OverPictureSettings,
    SecondPass,
    SecondPassSettings,
    Seed,
    Size,
    Steps,
    Variation,
    VariationSettings,
)
from diafano.request.guidance import HowGuided, HowGuidedSettings
from diafano.request.programs.table import find_program
from diafano.sampling.samplers.table import find_sampler
from diafano.sampling.sigmas import AUTOMATIC, find_schedule


def _text(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate, as from undecodable bytes on a command line
            raise UserError(
                f"the text {value!r} is not valid Unicode: type it again, or save its file as UTF-8"
            ) from None
    return value


def _sampler(value: object) -> object:
    return find_sampler(value).name if isinstance(value, str) else value


def _schedule(value: object) -> object:
    return find_schedule(value).name if isinstance(value, str) else value


def _like(value: object) -> object:
    return find_program(value).name if isinstance(value, str) else value


def _tileable(value: object) -> object:
    """One of `AXES`; None for what says no."""
    if isinstance(value, bool):
        return "both" if value else None
    name = value.strip().lower() if isinstance(value, str) else value
    if name not in (None, "no", *AXES):
        raise UserError(f"tileable {value!r} is not possible: use {', '.join(AXES)} or no")
    return None if name == "no" else name


def split_sampler_name(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings with sampler and schedule apart: of "DPM++ 2M Karras", as it used to be written, each gets its own.

    A schedule "automatic" is left out, for the sampler to choose.
    """
    apart = dict(settings)
    schedule = apart.get("schedule")
    if isinstance(schedule, str) and schedule.strip().lower() == AUTOMATIC:
        del apart["schedule"]
    fused = _split_fused_name(apart["sampler"]) if isinstance(apart.get("sampler"), str) else None
    if fused is not None:
        if _schedule(apart.get("schedule", fused[1])) != fused[1]:
            raise UserError(
                f"the sampler {apart['sampler']!r} names the schedule {fused[1]}, but {schedule!r} was given:"
                " leave one of them out"
            )
        apart["sampler"], apart["schedule"] = fused
    return apart


def _split_fused_name(name: Any) -> tuple[str, str] | None:
    """(sampler, schedule) of a fused name, None of any other."""
    words = re.split(r"[\s_-]+", name.strip())
    for cut in range(1, len(words)):
        with contextlib.suppress(UserError):
            return find_sampler(" ".join(words[:cut])).name, find_schedule(" ".join(words[cut:])).name
    return None


Text = Annotated[str, BeforeValidator(_text), Field(strict=True, description="text")]
Guidance = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False, description="a number from 0 to 100")]
SamplerName = Annotated[str, BeforeValidator(_sampler), Field(strict=True, description="the name of a sampler")]
ScheduleName = Annotated[str, BeforeValidator(_schedule), Field(strict=True, description="the name of a schedule")]
LikeName = Annotated[str | None, BeforeValidator(_like), Field(description="the name of a program")]
ClipSkip = Annotated[int, Field(strict=True, ge=1, description="a whole number from 1, the last layer, on")]
Count = Annotated[int, Field(strict=True, ge=1, description="a whole number from 1 on")]
Churn = Annotated[float | None, Field(strict=True, ge=0, allow_inf_nan=False, description="a number from 0 on")]
Tileable = Annotated[str | None, BeforeValidator(_tileable), Field(description="both, x, y or no")]
Tiles = Annotated[bool | None, Field(strict=True, description="true or false")]
Eta = Annotated[float | None, Field(strict=True, ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")]


class Request(OverPicture, Variation, SecondPass, HowGuided):
    """Everything that decides which pictures are drawn, apart from the model and from pictures to draw over."""

    prompt: Text
    negative: Text = ""
    steps: Steps
    sampler: SamplerName
    schedule: ScheduleName
    seed: Seed
    """Picture i is drawn from ``seed + i``, unless it is a variation."""
    size: Size
    """(width, height) in pixels."""
    count: Count = 1
    eta: Eta = None
    """Share of fresh noise at each step, for samplers that have the choice; None is the sampler's own."""
    s_churn: Churn = None
    """Fresh noise before each step, summed over the run, for samplers that have the choice; None is none."""
    s_noise: Churn = None
    """Factor on fresh noise, for samplers that have the choice; None is 1."""
    clip_skip: ClipSkip = 1
    """Which of the text encoder's layers is read, counted from the end: 1 is the last (A1111's counting)."""
    deep_cache: Annotated[int, Field(strict=True, ge=1, description="a whole number from 1, off, on")] = 1
    """The UNet's deep levels are run in one of so many steps (`sampling.deep_cache`); 1: in every step."""
    tileable: Tileable = None
    """Along which axes the picture continues at its opposite edge, one of `AXES`; None: it ends at its edges."""
    tiles: Tiles = None
    """Whether it goes through the autoencoder in tiles; None: where it is large. The picture is the same."""
    like: LikeName = None
    """The program whose habits are taken on, one of `PROGRAMS`; None is diafano's own."""
    rng: Literal["CPU", "GPU"] | None = None
    """The generator of all noise where it is not the program's: A1111's setting of that name."""
    batch_size: Annotated[int | None, Field(strict=True, ge=1, description="a whole number from 1 on")] = None
    """Pictures of the whole batch, if not only `count`; it matters where one generator draws for all (ComfyUI)."""
    batch_position: Annotated[int, Field(strict=True, ge=0, description="a whole number from 0 on")] = 0
    """Place of the first of the `count` pictures in that batch; picture i is then drawn from ``seed + place``."""

    @model_validator(mode="after")
    def _pictures_are_in_the_batch(self) -> Self:
        if self.batch_position + self.count > self.whole_batch:
            raise UserError(
                f"batch_position {self.batch_position} and count {self.count} lie outside a batch of"
                f" {self.whole_batch}: give a larger batch_size"
            )
        return self

    @property
    def whole_batch(self) -> int:
        return self.count if self.batch_size is None else self.batch_size

    @property
    def seed_counts(self) -> bool:
        """Whether each picture of the batch has a seed of its own."""
        return not self.varies and not find_program(self.like).one_generator_for_all

    @property
    def sampler_options(self) -> dict[str, float]:
        """What was said of `eta`, `s_churn` and `s_noise`, as keyword arguments for the sampler."""
        options = {"eta": self.eta, "s_churn": self.s_churn, "s_noise": self.s_noise}
        return {name: value for name, value in options.items() if value is not None}


class Settings(OverPictureSettings, VariationSettings, SecondPassSettings, HowGuidedSettings, total=False):
    """What can be said of a `Request` besides its prompt, as keyword arguments. None is as if it were left out."""

    negative: str | None
    steps: int | None
    sampler: str | None
    schedule: str | None
    seed: int | None
    size: tuple[int, int] | str | None
    count: int | None
    eta: float | None
    s_churn: float | None
    s_noise: float | None
    clip_skip: int | None
    fast: int | None
    """A level of `request.fast.LEVELS`, which stands for other settings; it is no field of the request."""
    deep_cache: int | None
    tileable: bool | str | None
    tiles: bool | None
    like: str | None
    rng: str | None
    batch_size: int | None
    batch_position: int | None
