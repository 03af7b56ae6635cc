"""What is told of jobs while they are drawn: how far each is, what it looks like, that something has happened."""

import io
import time
from dataclasses import dataclass, field

from PIL import Image

from diafano.jobs.queue.job import Job


@dataclass
class Live:
    """How far a job is that is being drawn."""

    job: Job
    steps: int = 0
    step: int = 0
    begun: float = field(default_factory=time.time)
    preview: Image.Image | None = None
    """Its first picture so far."""
    shown: float = 0.0
    """When that was made."""
    cancelled: bool = False
    """Nothing of it is wanted any more."""
    interrupted: bool = False
    """It ends with what is drawn so far."""

    @property
    def seconds_left(self) -> float | None:
        """None before the first step."""
        if self.step == 0:
            return None
        return (time.time() - self.begun) / self.step * (self.steps - self.step)


@dataclass(frozen=True)
class Event:
    """Something has happened to a job."""

    job: str
    owner: str
    kind: str
    """state, step or preview."""
    number: int


def as_bytes(picture: Image.Image, format: str = "WEBP") -> bytes:
    """A preview as a small file."""
    file = io.BytesIO()
    picture.save(file, format, quality=80)
    return file.getvalue()
