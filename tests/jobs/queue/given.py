"""A shelf for tests of the queue, and of what asks it."""

from pathlib import Path

from diafano.jobs.queue.shelf import Shelf
from diafano.stable_diffusion import StableDiffusion


class Given(Shelf):
    """A shelf whose models are there already."""

    def __init__(self, model: StableDiffusion, *names: str) -> None:
        super().__init__()
        self.model, self.given = model, ("embedded", *names)

    def names(self) -> dict[str, Path]:
        return {name: Path(name) for name in self.given}

    def get(self, name: str) -> StableDiffusion:
        self.find(name)
        return self.model
