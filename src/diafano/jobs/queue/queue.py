"""The queue itself: takes orders, draws them in turn on a thread of its own, tells whoever listens how far they are."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor

from diafano.checkpoints.tiny_decoder import load_tiny_decoder
from diafano.errors import UserError, collect_notes
from diafano.explain.preview import preview_pictures
from diafano.jobs.queue.job import Job, Order, State
from diafano.jobs.queue.live import Event, Live
from diafano.jobs.queue.shelf import EMBEDDED_NAME, Shelf
from diafano.jobs.queue.store import Store
from diafano.jobs.queue.together import draw_together
from diafano.jobs.queue.turns import Turns
from diafano.networks.tiny_decoder import TinyDecoder
from diafano.pictures.metadata import with_parameters
from diafano.pictures.pixels import to_picture
from diafano.request.keywords import Settings
from diafano.request.request import Request
from diafano.stable_diffusion import StableDiffusion

MOST_AT_ONCE = 16
"""Pictures in one batch: more are hardly faster, and whoever asks for one waits for all."""
PREVIEW_SECONDS = 0.25
LONGEST_STEP = 60.0
"""Seconds: so long is waited for a step to end."""
WATCHED_SECONDS = 5.0
"""Previews are made while somebody has asked for one within so many seconds."""


@dataclass(frozen=True)
class _Share:
    """What a live has of a batch."""

    live: Live
    request: Request
    row: int
    """Its first one in the batch."""


def parts_of(request: Request, model: StableDiffusion) -> list[Request]:
    """A request for each batch of its plan, which draws the same pictures: each is kept as soon as it is drawn."""
    whole = {"batch_size": request.whole_batch}
    return [
        request.model_copy(update={**whole, "count": len(places), "batch_position": places.start})
        for places in model.plan(request).batches
    ]


class _Ended(Exception):
    """Nobody wants the rest of the batch."""


class Queue:
    """Accepts orders and draws them. One thread draws; all methods may be called from any other."""

    def __init__(self, store: Store, shelf: Shelf, *, turns: Turns | None = None) -> None:
        self.store, self.shelf = store, shelf
        self.turns = Turns() if turns is None else turns
        self._live: dict[str, Live] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._number = 0
        self._listeners: list[Callable[[Event], object]] = []
        self._watched = 0.0
        self._thread: threading.Thread | None = None
        self._decoder: TinyDecoder | None = None
        self._stopping = self._no_decoder = False
        for job in store.put_back():
            self.turns.add(job)

    # ---- asking

    def submit(
        self,
        order: Order,
        *,
        owner: str,
        door: str = "python",
        id: str | None = None,
        priority: int = 0,
        check: Callable[[Order], object] = lambda order: None,
        notes: Sequence[str] = (),
    ) -> Job:
        """Accept an order. From when this returns, it is drawn even if the process is killed now.

        What the order leaves open (seed, size, steps) is decided here; `check` sees it then, and may raise. Raises
        UserError for what cannot be drawn, and `turns.Full` where too much waits.
        """
        self.turns.check(owner)
        with collect_notes() as said:
            order = self._complete(order)
        check(order)
        fields: dict[str, Any] = {} if id is None else {"id": id}
        job = Job(order=order, owner=owner, door=door, priority=priority, notes=(*notes, *said), **fields)
        self.store.accept(job)
        self.turns.add(job)
        self._tell(job, "state")
        return job

    def _complete(self, order: Order) -> Order:
        model = self.shelf.get(order.model)
        request, _ = self._prepared(model, order)
        said = {**order.settings, **{name: getattr(request, name) for name in ("seed", "size", "steps")}}
        if request.variation_seed is not None:
            said["variation_seed"] = request.variation_seed
        said = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in said.items()
            if value is not None
        }
        return order.model_copy(update={"settings": said, "model": self.shelf.find(order.model)})

    def _prepared(self, model: StableDiffusion, order: Order) -> tuple[Request, Any]:
        image = None if order.image is None else self.store.input(order.image)
        mask = None if order.mask is None else self.store.input(order.mask)
        settings: Settings = dict(order.settings)  # type: ignore[assignment]
        return model.prepare(order.prompt, image=image, mask=mask, **settings)

    def cancel(self, id: str, *, keep: bool = False) -> Job:
        """End a job: one that waits at once, one that is drawn at its next step; one that has ended stays as it is.

        With `keep` what is drawn so far becomes its pictures, and it is done. Raises UserError for an unknown one.
        """
        with self._lock:
            waited, live = self.turns.remove(id), self._live.get(id)
            if live is not None:
                live.interrupted, live.cancelled = live.interrupted or keep, live.cancelled or not keep
                return live.job
        if waited:
            job = self.store.change(id, state=State.cancelled, ended=time.time())
            self._tell(job, "state")
            return job
        found = self.store.job(id)
        if found is None:
            raise UserError(f"there is no job {id!r}")
        return found

    def retry(self, id: str, owner: str) -> Job:
        """A new job of the same order, seed included, of one that has ended."""
        job = self.store.job(id)
        if job is None or job.owner != owner:
            raise UserError(f"there is no job {id!r}")
        if not job.state.final:
            raise UserError(f"the job {id!r} has not ended yet: it is {job.state}")
        return self.submit(job.order, owner=owner, door=job.door)

    def live(self, id: str) -> Live | None:
        """How far a job is that is being drawn now."""
        with self._lock:
            return self._live.get(id)

    def watch(self) -> None:
        """Somebody looks at previews: they are made for a while."""
        self._watched = time.time()

    def wait(self, id: str, timeout: float | None = None) -> Job:
        """The job when it has ended, or as it is after `timeout` seconds. Raises UserError for an unknown one."""

        def ended() -> bool:
            job = self.store.job(id)
            return job is None or job.state.final

        with self._changed:
            self._changed.wait_for(ended, timeout)
        job = self.store.job(id)
        if job is None:
            raise UserError(f"there is no job {id!r}")
        return job

    def listen(self, listener: Callable[[Event], object]) -> Callable[[], None]:
        """Call it, from any thread, for each event; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    # ---- drawing

    def start(self) -> None:
        """Begin to draw."""
        assert self._thread is None, "it draws already"
        self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Begin nothing new, and let what is drawn end; after so many seconds it is put back, to be drawn next time."""
        self.turns.close()
        if self._thread is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._lock:
                for live in self._live.values():
                    live.cancelled = True
                self._stopping = True
            self._thread.join(LONGEST_STEP)
        self._thread = None

    def _work(self) -> None:
        while batch := self.turns.next(MOST_AT_ONCE):
            self._draw(batch)

    def _draw(self, batch: list[Job]) -> None:
        begun = time.time()
        lives = []
        for job in batch:
            started = self.store.change(job.id, state=State.drawing, started=begun, tries=job.tries + 1)
            lives.append(Live(started))
        with self._lock:
            self._live.update({live.job.id: live for live in lives})
        for live in lives:
            self._tell(live.job, "state")
        try:
            self._draw_lives(lives)
        except _Ended:
            for live in lives:
                self._end(live, self._state_of_ended)
        except UserError as error:
            self._fail(lives, str(error))
        except Exception as error:
            if len(lives) > 1:  # one of them may be what is wrong: each by itself then
                for live in lives:
                    self._draw_alone(live)
            else:
                self._fail(lives, said_of(error))
        finally:
            with self._lock:
                for live in lives:
                    self._live.pop(live.job.id, None)

    def _draw_alone(self, live: Live) -> None:
        try:
            self._draw_lives([live])
        except _Ended:
            self._end(live, self._state_of_ended)
        except Exception as error:
            self._fail([live], str(error) if isinstance(error, UserError) else said_of(error))

    def _draw_lives(self, lives: list[Live]) -> None:
        """Draw and keep what the lives want; raises `_Ended` where nobody wants the rest."""
        with collect_notes() as notes:
            model = self.shelf.get(lives[0].job.order.model)
            prepared = [self._prepared(model, live.job.order) for live in lives]
        requests = [request for request, _ in prepared]
        for live, request in zip(lives, requests, strict=True):
            plan = model.plan(request)
            live.steps, live.begun = plan.steps * len(plan.batches), time.time()
        if len(lives) == 1:
            for part in parts_of(requests[0], model):
                self._keep(_Share(lives[0], part, 0), self._drawn(model, part, lives[0], prepared[0][1]))
        else:
            ends = [*itertools.accumulate(request.count for request in requests)]
            shares = [
                _Share(live, request, end - request.count)
                for live, request, end in zip(lives, requests, ends, strict=True)
            ]
            drawn = draw_together(model, requests, partial(self._step, model, shares))
            for share, pictures in zip(shares, drawn, strict=True):
                self._keep(share, pictures)
        for live in lives:
            if live.cancelled:
                self._end(live, self._state_of_ended)
            elif live.job.state is State.drawing:
                told = tuple(dict.fromkeys((*live.job.notes, *notes)))
                live.job = self.store.change(live.job.id, state=State.done, ended=time.time(), notes=told)
                self._tell(live.job, "state")

    def _drawn(self, model: StableDiffusion, request: Request, live: Live, start: Any) -> list[Image.Image]:
        return model.draw(request, partial(self._step, model, [_Share(live, request, 0)]), start)

    @property
    def _state_of_ended(self) -> State:
        """What becomes of a job that is ended: where the queue itself ends, it is drawn when it begins again."""
        return State.waiting if self._stopping else State.cancelled

    def _keep(self, share: "_Share", pictures: list[Image.Image]) -> None:
        """Write the pictures of a share, if they are wanted."""
        live, request = share.live, share.request
        if live.cancelled or live.job.state is not State.drawing:
            return
        first = live.job.order.settings.get("batch_position") or 0
        for place, picture in enumerate(pictures, start=request.batch_position - first):
            if live.job.order.enlarged is not None:
                text = picture.info.get("parameters", "")
                picture = with_parameters(picture.resize(live.job.order.enlarged, Image.Resampling.LANCZOS), text)
            self.store.add_picture(live.job, place, picture, request.seed + (first + place) * request.seed_counts)

    def _step(
        self, model: StableDiffusion, shares: "list[_Share]", step: int, sigma: float, noisy: Tensor, clean: Tensor
    ) -> None:
        """Between two steps: count, show, and look whether somebody wants it ended."""
        for share in shares:
            live = share.live
            live.step += 1
            if live.interrupted and live.job.state is State.drawing:
                self._keep(share, self._so_far(model, share, clean))
                notes = (*live.job.notes, f"it was ended after {live.step} of {live.steps} steps")
                live.job = self.store.change(live.job.id, state=State.done, ended=time.time(), notes=notes)
                self._tell(live.job, "state")
        wanted = [one for one in shares if not one.live.cancelled and one.live.job.state is State.drawing]
        if not wanted:
            raise _Ended
        watched = time.time() - self._watched < WATCHED_SECONDS
        for share in wanted:
            if watched and time.time() - share.live.shown >= PREVIEW_SECONDS:
                decoder = self._tiny(model, share.live)
                shown = preview_pictures(model, clean[share.row : share.row + 1], decoder)
                share.live.preview = shown[0] if shown else share.live.preview
                share.live.shown = time.time()
            self._tell(share.live.job, "step")

    def _so_far(self, model: StableDiffusion, share: "_Share", clean: Tensor) -> list[Image.Image]:
        request = share.request
        recorded = model.recorded(request, (), model.addons.loras_of(request.prompt))
        rows = clean[share.row : share.row + request.count] if len(clean) > request.count else clean
        made = map(to_picture, model.decode(rows, request.tiles))
        return [with_parameters(picture, recorded(request.batch_position + at)) for at, picture in enumerate(made)]

    def _tiny(self, model: StableDiffusion, live: Live) -> TinyDecoder | None:
        """The embedded model's own decoder for previews; others are shown by the mean of their latents' way down."""
        if live.job.order.model != EMBEDDED_NAME or self._no_decoder:
            return None
        if self._decoder is None:
            try:
                self._decoder = load_tiny_decoder(None, model)
            except UserError:  # it is another model that goes by that name
                self._no_decoder = True
        return self._decoder

    def _end(self, live: Live, state: State) -> None:
        if live.job.state is not State.drawing:
            return
        fields: dict[str, Any] = {"started": None} if state is State.waiting else {"ended": time.time()}
        live.job = self.store.change(live.job.id, state=state, **fields)
        self._tell(live.job, "state")

    def _fail(self, lives: list[Live], sentence: str) -> None:
        for live in lives:
            if live.job.state is State.drawing:
                live.job = self.store.change(live.job.id, state=State.failed, ended=time.time(), error=sentence)
                self._tell(live.job, "state")

    def _tell(self, job: Job, kind: str) -> None:
        with self._changed:
            self._number += 1
            event = Event(job.id, job.owner, kind, self._number)
            listeners = list(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener(event)


def said_of(error: BaseException) -> str:
    """A sentence for what is nobody's mistake."""
    logging.getLogger("diafano").error("a job failed", exc_info=error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "there is not enough memory for this: ask for a smaller size or fewer pictures"
    return f"this could not be drawn ({type(error).__name__}: {error}): it is a fault of diafano's, please report it"
