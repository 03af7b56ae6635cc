"""A model card: what a model is called, and what it draws with unless it is told otherwise."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from diafano.request.fields import Guidance, SamplerName, ScheduleName, Size, Steps, number


class ModelCard(BaseModel):
    """What a model is called and what it draws with unless it is told otherwise; ``diafano.json`` in its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(strict=True, min_length=1, description="text")]
    size: Size = (512, 512)
    """(width, height) in pixels."""
    steps: Steps = 50
    guidance: Guidance = 7.5
    sampler: SamplerName = "uni_pc"
    """The default is nearer to the solution in 25 steps than DDIM in 50, see docs/samplers.md."""
    schedule: ScheduleName = "uniform"
    upscale: Annotated[float, number(1, 16)] = 1.0
    """How many times larger finished pictures are made, where a request says nothing of their size."""
    objects: tuple[str, ...] | None = None
    """The objects of emoji scenes that it was trained to draw, which `diafano evaluate` asks for."""
    languages: tuple[str, ...] = ("en",)
    """Those of the captions of emoji scenes that it was trained with."""
