"""The queue draws what is asked, in turn; ends what is not wanted; and draws after a crash what it had accepted."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.jobs.queue.job import Job, Order, State
from diafano.jobs.queue.live import Event
from diafano.jobs.queue.queue import Queue
from diafano.jobs.queue.store import Store
from diafano.stable_diffusion import StableDiffusion
from jobs.queue.given import Given

WAIT = 60.0


@pytest.fixture
def make(tmp_path: Path, tiny_model: StableDiffusion) -> Iterator[Callable[..., Queue]]:
    made: list[Queue] = []

    def queue(*names: str, start: bool = True) -> Queue:
        one = Queue(Store(tmp_path), Given(tiny_model, *names))
        made.append(one)
        if start:
            one.start()
        return one

    yield queue
    for one in made:
        one.stop(5)
        one.store.close()


def order(prompt: str = "a fox", **settings: Any) -> Order:
    return Order(prompt=prompt, settings={"steps": 3, **settings})


def hold(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """(drawing has begun, it may go on): the network waits in its first call."""
    begun, go_on = threading.Event(), threading.Event()
    forward = model.unet.forward

    def waiting(*args: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(WAIT)
        return forward(*args, **options)

    monkeypatch.setattr(model.unet, "forward", waiting)
    return begun, go_on


def test_an_order_becomes_pictures(make: Callable[..., Queue], tiny_model: StableDiffusion) -> None:
    queue = make()
    job = queue.submit(order(count=2, seed=7), owner="me")
    assert job.order.settings["size"] == [64, 64]  # decided
    done = queue.wait(job.id, WAIT)
    assert (done.state, done.tries, done.error) == (State.done, 1, None)
    assert done.ended is not None and done.started is not None and done.created <= done.started <= done.ended
    made = queue.store.pictures(job.id)
    assert [(one.place, one.seed) for one in made] == [(0, 7), (1, 8)]
    for one, drawn in zip(made, tiny_model.generate("a fox", seed=7, count=2, steps=3), strict=True):
        with Image.open(queue.store.file(one)) as file:
            assert file.tobytes() == drawn.tobytes()
            assert file.info["parameters"] == drawn.info["parameters"] == one.parameters


def test_a_seed_by_chance_is_decided_when_it_is_accepted(make: Callable[..., Queue]) -> None:
    queue = make(start=False)
    first, second = (queue.submit(order(), owner="me") for _ in range(2))
    assert first.order.settings["seed"] != second.order.settings["seed"]


def test_drawing_over_a_picture(make: Callable[..., Queue]) -> None:
    queue = make()
    name = queue.store.keep_input(Image.new("RGB", (128, 64), "orange"))
    mask = Image.new("L", (128, 64))
    mask.paste(255, (0, 0, 64, 64))
    asked = order(seed=1, strength=0.5).model_copy(update={"image": name, "mask": queue.store.keep_input(mask)})
    job = queue.wait(queue.submit(asked, owner="me").id, WAIT)
    (made,) = queue.store.pictures(job.id)
    assert (made.width, made.height) == (128, 64)
    with Image.open(queue.store.file(made)) as file:
        assert file.getpixel((127, 0)) == (255, 165, 0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Order(prompt="x", settings={"steps": 0}), "steps 0 is not possible"),
        (Order(prompt="x", settings={"stepz": 1}), "stepz"),
        (Order(prompt="x", settings={"size": "65x64"}), "65x64"),
        (Order(prompt="x", model="dreams"), "there is no model 'dreams': use one of embedded"),
        (Order(prompt="x", image="../x"), "is no picture that was kept"),
    ],
)
def test_what_cannot_be_drawn_is_not_accepted(make: Callable[..., Queue], asked: Order, said: str) -> None:
    queue = make(start=False)
    with pytest.raises(UserError, match=said):
        queue.submit(asked, owner="me")
    assert queue.store.jobs() == []


def test_notes_come_with_the_job(make: Callable[..., Queue]) -> None:
    job = make(start=False).submit(order("a {red|blue} fox"), owner="me")
    assert any("is drawn as it stands" in note for note in job.notes)


def test_many_owners_at_once(make: Callable[..., Queue]) -> None:
    queue, jobs = make(), list[Job]()

    def ask(owner: str) -> None:
        for number in range(5):
            jobs.append(queue.submit(order(f"{owner} {number}", seed=number), owner=owner))

    threads = [threading.Thread(target=ask, args=(f"owner {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [queue.wait(job.id, WAIT) for job in jobs]
    assert {job.state for job in done} == {State.done}
    for job in done:
        (made,) = queue.store.pictures(job.id)
        assert made.parameters.startswith(job.order.prompt)
        assert made.seed == job.order.settings["seed"]


def test_a_waiting_job_is_cancelled_at_once(make: Callable[..., Queue]) -> None:
    queue = make(start=False)
    job = queue.submit(order(), owner="me")
    assert queue.cancel(job.id).state is State.cancelled
    assert queue.cancel(job.id).state is State.cancelled
    assert queue.turns.position(job.id) is None
    with pytest.raises(UserError, match="there is no job 'x'"):
        queue.cancel("x")


@pytest.mark.parametrize("keep", [False, True])
def test_a_job_is_ended_at_its_next_step(
    make: Callable[..., Queue], tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    begun, go_on = hold(tiny_model, monkeypatch)
    queue = make()
    job = queue.submit(order(steps=1000), owner="me")
    assert begun.wait(WAIT)
    assert queue.cancel(job.id, keep=keep).state is State.drawing
    go_on.set()
    ended = queue.wait(job.id, WAIT)
    if keep:
        assert ended.state is State.done
        assert "it was ended after 1 of 1000 steps" in ended.notes
        assert len(queue.store.pictures(job.id)) == 1
    else:
        assert ended.state is State.cancelled
        assert queue.store.pictures(job.id) == []
    assert queue.wait(queue.submit(order(), owner="me").id, WAIT).state is State.done  # it goes on


def test_one_of_a_batch_is_ended_and_the_others_are_drawn(
    make: Callable[..., Queue], tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tiny_model.generate("c", seed=1, steps=5)[0]
    queue = make(start=False)
    dropped, kept, whole = (queue.submit(order(prompt, steps=5, seed=1), owner=prompt) for prompt in "abc")
    begun, go_on = hold(tiny_model, monkeypatch)
    queue.start()
    assert begun.wait(WAIT)
    queue.cancel(dropped.id)
    queue.cancel(kept.id, keep=True)
    go_on.set()
    states = [queue.wait(job.id, WAIT).state for job in (dropped, kept, whole)]
    assert states == [State.cancelled, State.done, State.done]
    assert [len(queue.store.pictures(job.id)) for job in (dropped, kept, whole)] == [0, 1, 1]
    with Image.open(queue.store.file(queue.store.pictures(whole.id)[0])) as file:
        differs = [abs(a - b) for a, b in zip(file.tobytes(), alone.tobytes(), strict=True)]
        assert max(differs) <= 1


def test_events_and_previews(make: Callable[..., Queue]) -> None:
    queue, events = make(start=False), list[Event]()
    end = queue.listen(events.append)
    job = queue.submit(order(), owner="me")
    queue.watch()
    shown: list[Image.Image | None] = []
    queue.listen(lambda event: shown.append(live.preview) if (live := queue.live(job.id)) is not None else None)
    queue.start()
    queue.wait(job.id, WAIT)
    assert [event.kind for event in events] == ["state", "state", "step", "step", "step", "state"]
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
    assert any(picture is not None and picture.size == (64, 64) for picture in shown)
    end()
    queue.wait(queue.submit(order(), owner="me").id, WAIT)
    assert len(events) == 6


def test_what_fails_is_a_sentence_and_the_queue_goes_on(
    make: Callable[..., Queue], tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make()
    with monkeypatch.context() as patched:
        patched.setattr(tiny_model.unet, "forward", lambda *args, **options: 1 / 0)
        failed = queue.wait(queue.submit(order(), owner="me").id, WAIT)
    assert failed.state is State.failed
    assert failed.error is not None and "ZeroDivisionError" in failed.error
    assert queue.wait(queue.submit(order(), owner="me").id, WAIT).state is State.done
    again = queue.retry(failed.id, "me")
    assert again.order == failed.order
    assert queue.wait(again.id, WAIT).state is State.done
    with pytest.raises(UserError, match="there is no job"):
        queue.retry(failed.id, "you")


def test_one_bad_job_does_not_take_its_batch_along(
    make: Callable[..., Queue], tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make(start=False)
    jobs = [queue.submit(order(prompt), owner=prompt) for prompt in ("good", "bad", "fine")]
    draw = tiny_model.recorded

    def recorded(request: Any, *args: Any) -> Any:
        if request.prompt == "bad":
            raise RuntimeError("no")
        return draw(request, *args)

    monkeypatch.setattr(tiny_model, "recorded", recorded)
    queue.start()
    assert [queue.wait(job.id, WAIT).state for job in jobs] == [State.done, State.failed, State.done]


def test_after_a_crash_everything_accepted_is_drawn(make: Callable[..., Queue], tmp_path: Path) -> None:
    queue = make(start=False)
    waiting, drawing = (queue.submit(order(seed=4), owner="me") for _ in range(2))
    queue.store.change(drawing.id, state=State.drawing, tries=1, started=time.time())
    again = make()  # another process, say
    assert again.wait(waiting.id, WAIT).state is State.done
    found = again.wait(drawing.id, WAIT)
    assert (found.state, found.tries) == (State.done, 2)


def test_stopping_puts_back_what_takes_too_long(
    make: Callable[..., Queue], tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = hold(tiny_model, monkeypatch)
    queue = make()
    job = queue.submit(order(steps=1000), owner="me")
    assert begun.wait(WAIT)
    threading.Timer(0.3, go_on.set).start()
    queue.stop(0.1)
    found = queue.store.job(job.id)
    assert found is not None and found.state is State.waiting


def test_models_by_name(make: Callable[..., Queue]) -> None:
    queue = make("dreams")
    job = queue.submit(order().model_copy(update={"model": "DREAMS"}), owner="me")
    assert job.order.model == "dreams"
    assert queue.wait(job.id, WAIT).state is State.done
