"""What someone asks for, checked once: the same for the command line, the server and Python.

Everything that is wrong with a request is one sentence (`UserError`) that names the setting, its value and what is
possible. What depends on the model, such as the sizes it can draw, is checked by the model.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from diafano.errors import UserError
from diafano.request.fields import LARGEST_SEED
from diafano.request.keywords import Settings
from diafano.request.programs.table import find_program
from diafano.request.settings import (
    Enlarged,
    GuidanceSettings,
    Hires,
    ImageToImage,
    Networks,
    OtherProgram,
    Picture,
    SamplerOptions,
    Variation,
)
from diafano.sampling.samplers.table import find_sampler
from diafano.sampling.sigmas import AUTOMATIC, find_schedule

__all__ = ["Request", "Settings", "split_sampler_name"]


# Pydantic takes the fields of the last base first: the order of an experiment's columns.
class Request(
    OtherProgram, Networks, SamplerOptions, Picture, ImageToImage, Variation, Enlarged, Hires, GuidanceSettings
):
    """Everything that decides which pictures are drawn, apart from the model and from pictures to draw over.

    Its fields are in `request.settings`, with what each means.
    """

    @model_validator(mode="after")
    def _pictures_are_in_the_batch(self) -> Self:
        if self.batch_position + self.count > self.whole_batch:
            raise UserError(
                f"batch_position {self.batch_position} and count {self.count} lie outside a batch of"
                f" {self.whole_batch}: give a larger batch_size"
            )
        last = self.batch_position + self.count - 1
        counted = self.variation_seed if self.varies else self.seed
        if counted is not None and counted + last > LARGEST_SEED and self._each_has_a_seed:
            raise UserError(f"seed {counted} and {last} more lie beyond 2^64 - 1: give a smaller seed")
        return self

    @property
    def whole_batch(self) -> int:
        return self.count if self.batch_size is None else self.batch_size

    @property
    def seed_counts(self) -> bool:
        """Whether each picture of the batch has a seed of its own."""
        return not self.varies and self._each_has_a_seed

    @property
    def _each_has_a_seed(self) -> bool:
        """A first one, or one for its variation."""
        return not find_program(self.like).one_generator_for_all

    @property
    def sampler_options(self) -> dict[str, float]:
        """What was said of `SamplerOptions`, as keyword arguments for the sampler."""
        options = {name: getattr(self, name) for name in SamplerOptions.model_fields}
        return {name: value for name, value in options.items() if value is not None}


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
        given = apart.get("schedule", fused[1])
        if (find_schedule(given).name if isinstance(given, str) else given) != fused[1]:
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
