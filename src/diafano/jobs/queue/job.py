"""A job: what was asked, by whom, and how far it is."""

import time
import uuid
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from diafano.request.settings import SETTINGS


class State(StrEnum):
    """Of a job; the last three are final."""

    waiting = "waiting"
    drawing = "drawing"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.done, State.failed, State.cancelled)


class Order(BaseModel):
    """What is asked: plain values that can be kept, sent, and asked again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    settings: dict[str, Any] = Field(default_factory=dict)
    """By the names of `request.settings`, complete: seed, size and steps are decided when a job is accepted, so that it
    draws the same however often it is begun."""
    model: str = "embedded"
    """A name of the server's list of models."""
    image: str | None = None
    """The picture to draw over, by its name in the store."""
    mask: str | None = None
    enlarged: tuple[int, int] | None = None
    """Width and height that the finished pictures are brought to."""

    @property
    def count(self) -> int:
        """Pictures that it makes."""
        return int(self.settings.get("count") or 1)

    @property
    def weight(self) -> float:
        """How much work it is, in megapixels times steps."""
        width, height = self.settings.get("size") or (512, 512)
        hires = self.settings.get("hires") or 1
        return float(width * height * hires**2 * (self.settings.get("steps") or 50) * self.count / 1e6)

    @property
    def kin(self) -> str | None:
        """Orders for which this is the same can be drawn as one batch; None: only by itself."""
        if self.image is not None or any(self.settings.get(name) is not None for name in ("hires", "hires_size")):
            return None
        if "<" in self.prompt:  # tags of LoRAs change the network for all
            return None
        alike = {name: self.settings.get(name) for name in SETTINGS if name not in ("negative", "seed", "count")}
        return repr((self.model, sorted(alike.items())))


class Job(BaseModel):
    """An order on its way."""

    model_config = ConfigDict(frozen=True)

    order: Order
    owner: str
    """Who asked: jobs of different owners take turns."""
    door: str = "python"
    """The interface by which it came."""
    id: str = Field(default_factory=lambda: str(uuid.uuid4()))
    state: State = State.waiting
    priority: int = 0
    """Among the jobs of its owner: higher ones first."""
    created: float = Field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    tries: int = 0
    """How often it was begun."""
    error: str | None = None
    """One sentence, of a job that failed."""
    notes: tuple[str, ...] = ()
    """What there is to tell beside its pictures."""


class Made(BaseModel):
    """A picture that a job has made."""

    model_config = ConfigDict(frozen=True)

    job: str
    place: int
    """0 is the job's first."""
    path: str
    """Of its file, below the store's folder."""
    width: int
    height: int
    seed: int
    created: float
    parameters: str
    """All settings, as A1111 writes them; they are inside the file as well."""
