"""What all doors share: the queue and its limits, orders made of what clients send, and waiting for what is drawn."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from diafano.jobs.queue.job import Job, Made, Order
from diafano.jobs.queue.live import Event
from diafano.jobs.queue.queue import Queue
from diafano.jobs.queue.shelf import EMBEDDED_NAME
from diafano.jobs.queue.store import Store
from diafano.request.fields import LARGEST_EDGE, SMALLEST_EDGE
from diafano.serve.limits import Limits, mask_of, picture_of

Result = TypeVar("Result")
Given = ParamSpec("Given")
HANG_UP_SECONDS = 0.2
"""So often a waiting request looks whether its client is still there."""


@dataclass
class Service:
    """Behind every door."""

    queue: Queue
    limits: Limits

    @property
    def store(self) -> Store:
        return self.queue.store

    async def order(
        self,
        prompt: str,
        settings: dict[str, Any],
        *,
        owner: str,
        door: str,
        model: str | None = None,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        id: str | None = None,
        fit: bool = False,
        notes: Sequence[str] = (),
    ) -> Job:
        """Accept an order. Raises UserError (`Full` for a full queue), one sentence, for what cannot be drawn.

        With `fit` the embedded model draws at a size that it knows, of the shape of the one that is asked for, and the
        picture is brought to that one. `notes` are told beside those of the queue.
        """

        def accept() -> Job:
            self.limits.check_text(prompt, str(settings.get("negative") or ""))
            name = "embedded" if model is None else self.queue.shelf.find(model)
            said = {key: value for key, value in settings.items() if value is not None}
            enlarged, told = None, [*notes]
            asked = pair(said.get("size"))
            if fit and name == EMBEDDED_NAME and asked is not None and image is None:
                loaded = self.queue.shelf.get(name)
                known = known_size(asked, loaded.card.size, loaded.size_step)
                if known != asked:
                    enlarged, said["size"] = asked, known
                    told.append(
                        f"drawn at {known[0]}x{known[1]}, which the embedded model knows, and enlarged to"
                        f" {enlarged[0]}x{enlarged[1]}"
                    )
            order = Order(
                enlarged=enlarged,
                prompt=prompt,
                settings=said,
                model=name,
                image=None if image is None else self.store.keep_input(picture_of(image)),
                mask=None if mask is None or image is None else self.store.keep_input(mask_of(mask, image.size)),
            )
            return self.queue.submit(order, owner=owner, door=door, id=id, check=self.limits.check, notes=told)

        return await run_in_threadpool(accept)

    async def ended(self, job: Job, request: Request) -> Job:
        """The job when it has ended; a client that hangs up before takes it along."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def heard(event: Event) -> None:
            if event.job == job.id and event.kind == "state":
                loop.call_soon_threadsafe(done.set)

        end = self.queue.listen(heard)
        try:
            while True:
                found = await run_in_threadpool(self.store.job, job.id)
                assert found is not None, "jobs are not removed"
                if found.state.final:
                    return found
                done.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), HANG_UP_SECONDS)
                if await request.is_disconnected():
                    return await run_in_threadpool(self.queue.cancel, job.id)
        finally:
            end()

    async def events(self, wanted: Callable[[Event], bool]) -> AsyncIterator[Event | None]:
        """Events as they come; None at first, and now and then where none comes, so that a stream stays alive."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Event] = asyncio.Queue()

        def heard(event: Event) -> None:
            if wanted(event):
                loop.call_soon_threadsafe(waiting.put_nowait, event)

        end = self.queue.listen(heard)
        try:
            yield None  # whoever asks looks how it is now
            while True:
                try:
                    yield await asyncio.wait_for(waiting.get(), 10.0)
                except TimeoutError:
                    yield None
        finally:
            end()

    async def files(self, job: Job) -> list[tuple[Made, bytes]]:
        """A job's pictures with their files."""

        def read() -> list[tuple[Made, bytes]]:
            return [(made, self.store.file(made).read_bytes()) for made in self.store.pictures(job.id)]

        return await run_in_threadpool(read)


def pair(size: Any) -> tuple[int, int] | None:
    """(width, height) of ``"64x128"`` or of two numbers, if they can be a picture's; else None, and others complain."""
    if isinstance(size, str) and (match := re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", size)):
        size = [int(edge) for edge in match.groups()]
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(edge) is int for edge in size):
        return None
    width, height = size
    return (width, height) if min(size) >= SMALLEST_EDGE and max(size) <= LARGEST_EDGE else None


def known_size(asked: tuple[int, int], usual: tuple[int, int], step: int) -> tuple[int, int]:
    """Of the shape of what is asked, and of about as many pixels as a model usually draws; that itself if it is near.

    (width, height) in pixels, multiples of `step`.
    """
    if max(asked) <= 2 * max(usual):
        return asked
    scale = (usual[0] * usual[1] / (asked[0] * asked[1])) ** 0.5
    width, height = (max(SMALLEST_EDGE, round(edge * scale / step) * step) for edge in asked)
    return width, height


def owner(request: Request) -> str:
    """Whose request it is, as the gate has found."""
    found: str = request.state.owner
    return found


async def in_thread(function: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """Away from the loop, which others wait for."""
    return await run_in_threadpool(function, *given, **named)
