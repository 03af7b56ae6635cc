"""Whose turn it is: owners share what is drawn, whoever asks for much waits behind who asks for little."""

import threading
from collections.abc import Iterable

from diafano.errors import UserError
from diafano.jobs.queue.job import Job

MOST_WAITING, MOST_OF_ONE = 2000, 200
"""Jobs that may wait, in all and of one owner."""
LONGEST_STAY = 8
"""So many batches in a row are drawn with one model, while owners whose turn it is wait for another."""


class Full(UserError):
    """Too many jobs wait: the same may be possible later."""


class Turns:
    """The jobs that wait. Safe to use from any thread.

    Each owner has an account of what was drawn for them, in `Order.weight`; the next job is one of the owner with the
    lowest (start-time fair queueing: an owner who comes anew begins where the others are, not at 0). Of an owner's own
    jobs the highest priority comes first, then the eldest.
    """

    def __init__(self, *, most: int = MOST_WAITING, most_of_one: int = MOST_OF_ONE) -> None:
        self.most, self.most_of_one = most, most_of_one
        self._waiting: dict[str, Job] = {}
        """In the order in which they came."""
        self._drawn: dict[str, float] = {}
        self._now = 0.0
        """The account of the owner whose turn it was last."""
        self._stay = 0
        self._model: str | None = None
        self._changed = threading.Condition()
        self._paused = self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)

    def check(self, owner: str) -> None:
        """Raises `Full` where no more of that owner may wait."""
        with self._changed:
            if len(self._waiting) >= self.most:
                raise Full(f"{self.most} jobs wait already: try again later")
            if sum(job.owner == owner for job in self._waiting.values()) >= self.most_of_one:
                raise Full(f"{self.most_of_one} of your jobs wait already: try again when some are done")

    def add(self, job: Job) -> None:
        with self._changed:
            if not any(other.owner == job.owner for other in self._waiting.values()):
                self._drawn[job.owner] = max(self._drawn.get(job.owner, 0.0), self._now)
            self._waiting[job.id] = job
            self._changed.notify_all()

    def remove(self, id: str) -> bool:
        """Whether it was waiting, and does no more."""
        with self._changed:
            return self._waiting.pop(id, None) is not None

    def put_first(self, id: str) -> bool:
        """Before all other jobs of its owner; whether it waits at all."""
        with self._changed:
            job = self._waiting.get(id)
            if job is None:
                return False
            highest = max(one.priority for one in self._waiting.values() if one.owner == job.owner)
            self._waiting[id] = job.model_copy(update={"priority": highest + 1})
            return True

    def pause(self, paused: bool) -> None:
        """Whether nothing new is begun."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing is begun any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def position(self, id: str) -> int | None:
        """How many jobs are drawn before it if nobody asks for more; None: it does not wait."""
        with self._changed:
            for place, job in enumerate(self._in_turn()):
                if job.id == id:
                    return place
            return None

    def next(self, most_pictures: int, timeout: float | None = None) -> list[Job]:
        """The next job, and what can be drawn with it as one batch of so many pictures; none if closed, or after
        `timeout` seconds. Its owners are charged for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._waiting and not self._paused), timeout)
            if self._closed or not self._waiting or self._paused:
                return []
            batch = self._batch(most_pictures)
            for job in batch:
                del self._waiting[job.id]
                self._charge(job)
            return batch

    def _batch(self, most_pictures: int) -> list[Job]:
        in_turn = self._in_turn()
        first = in_turn[0]
        if self._model is not None and first.order.model != self._model and self._stay < LONGEST_STAY:
            first = next((job for job in in_turn if job.order.model == self._model), first)
        self._stay = self._stay + 1 if first.order.model == self._model else 0
        self._model = first.order.model
        batch, pictures = [first], first.order.count
        if first.order.kin is not None:
            for job in in_turn:
                if (
                    job is not first
                    and job.order.kin == first.order.kin
                    and pictures + job.order.count <= most_pictures
                ):
                    batch.append(job)
                    pictures += job.order.count
        return batch

    def _in_turn(self) -> list[Job]:
        """All that wait, as they would come if each were drawn alone."""
        accounts = {job.owner: self._drawn.get(job.owner, self._now) for job in self._waiting.values()}
        queues: dict[str, list[Job]] = {owner: [] for owner in accounts}
        for job in self._waiting.values():
            queues[job.owner].append(job)
        for jobs in queues.values():
            jobs.sort(key=lambda job: (-job.priority, job.created))
            jobs.reverse()
        order: list[Job] = []
        while queues:
            owner = min(queues, key=lambda one: (accounts[one], queues[one][-1].created))
            job = queues[owner].pop()
            accounts[owner] += job.order.weight
            order.append(job)
            if not queues[owner]:
                del queues[owner]
        return order

    def _charge(self, job: Job) -> None:
        self._now = max(self._now, min([self._drawn.get(job.owner, self._now), *self._accounts_waiting()]))
        self._drawn[job.owner] = self._drawn.get(job.owner, self._now) + job.order.weight
        if len(self._drawn) > 10 * self.most:  # owners come and go
            self._drawn = {owner: drawn for owner, drawn in self._drawn.items() if drawn > self._now}

    def _accounts_waiting(self) -> Iterable[float]:
        return (self._drawn.get(job.owner, self._now) for job in self._waiting.values())
