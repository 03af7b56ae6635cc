"""What was accepted or finished is there again, whatever happened."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.jobs.queue.job import Job, Order, State
from diafano.jobs.queue.store import DATABASE, MOST_TRIES, Store
from diafano.pictures.metadata import with_parameters

ORDER = Order(prompt="a fox", settings={"seed": 3, "size": [64, 64], "steps": 2})


def picture(colour: str = "red", text: str = "a fox\nSteps: 2") -> Image.Image:
    return with_parameters(Image.new("RGB", (64, 64), colour), text)


def test_a_job_is_what_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    job = Job(order=ORDER, owner="me", door="page", priority=2, notes=("one", "two"))
    store.accept(job)
    assert store.job(job.id) == job
    changed = store.change(job.id, state=State.drawing, started=5.0, tries=1, notes=("three",))
    assert (changed.state, changed.started, changed.tries, changed.notes) == (State.drawing, 5.0, 1, ("three",))
    store.close()
    assert Store(tmp_path / "new" / "folder").job(job.id) == changed
    assert store.folder.is_dir()


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.accept(Job(order=ORDER, owner="me", id="x"))
    with pytest.raises(UserError, match="there is a job 'x' already"):
        store.accept(Job(order=ORDER, owner="you", id="x"))
    found = store.job("x")
    assert found is not None and found.owner == "me"
    with pytest.raises(UserError, match="there is no job 'y'"):
        store.change("y", state=State.done)


def test_what_has_ended_stays_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.accept(Job(order=ORDER, owner="me", id="x"))
    store.change("x", state=State.cancelled)
    assert store.change("x", state=State.done).state is State.cancelled


def test_jobs_are_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(6):
        owner = "me" if number % 2 else "you"
        store.accept(Job(order=ORDER, owner=owner, id=str(number), created=float(number)))
    store.change("5", state=State.done)
    assert [job.id for job in store.jobs()] == ["5", "4", "3", "2", "1", "0"]
    assert [job.id for job in store.jobs(owner="me", before=5.0)] == ["3", "1"]
    assert [job.id for job in store.jobs(states=[State.waiting], oldest_first=True, limit=2)] == ["0", "1"]


def test_pictures_and_the_gallery(tmp_path: Path) -> None:
    store = Store(tmp_path)
    mine, yours = (Job(order=ORDER, owner=owner) for owner in ("me", "you"))
    store.accept(mine)
    store.accept(yours)
    first = store.add_picture(mine, 0, picture("red", "a red Fox\nSteps: 2"), 3)
    second = store.add_picture(mine, 1, picture("blue", "a blue fox\nSteps: 2"), 4)
    other = store.add_picture(yours, 0, picture("blue", "an owl\nSteps: 2"), 3)
    assert store.pictures(mine.id) == [first, second]
    assert (first.width, first.height, first.seed, first.parameters) == (64, 64, 3, "a red Fox\nSteps: 2")
    with Image.open(store.file(first)) as file:
        assert file.getpixel((0, 0)) == (255, 0, 0)
        assert file.info["parameters"] == "a red Fox\nSteps: 2"
    assert store.gallery() == [other, second, first]
    assert store.gallery(owner="me", words="fox BLUE") == [second]
    assert store.gallery(words="%") == store.gallery(words="' or 1 --") == []
    assert store.gallery(limit=1, before=other.created) == [second]
    assert store.add_picture(mine, 0, picture("green"), 3) == first  # of an earlier try
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_what_was_being_drawn_waits_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for id, state, tries in (
        ("a", State.drawing, 1),
        ("b", State.done, 1),
        ("c", State.waiting, 0),
        ("d", State.drawing, MOST_TRIES),
    ):
        store.accept(Job(order=ORDER, owner="me", id=id, state=state, tries=tries))
    assert [job.id for job in store.put_back()] == ["a", "c"]
    given_up = store.job("d")
    assert given_up is not None and given_up.state is State.failed
    assert given_up.error is not None and "ended 3 times" in given_up.error


def test_pictures_to_draw_over_are_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = Image.new("L", (5, 7), 200)
    name = store.keep_input(one)
    assert store.keep_input(one.copy()) == name
    assert store.keep_input(one.convert("RGB")) != name
    kept = store.input(name)
    assert (kept.mode, kept.size, kept.tobytes()) == ("L", (5, 7), one.tobytes())
    with pytest.raises(UserError, match="is not kept any more"):
        store.input("0" * 64)


@pytest.mark.parametrize("name", ["../jobs", "x", "", "A" * 64, "/etc/passwd"])
def test_names_of_pictures_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no picture that was kept"):
        Store(tmp_path).input(name)


def test_threads_share_it(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def work(owner: str) -> None:
        for _ in range(20):
            job = Job(order=ORDER, owner=owner)
            store.accept(job)
            store.add_picture(job, 0, picture(), 3)
            store.change(job.id, state=State.done)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.jobs(states=[State.done], limit=-1)) == 160
    assert len({made.path for made in store.gallery(limit=-1)}) == len(list(tmp_path.rglob("*.png"))) == 160


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the jobs cannot be kept in"):
        Store(tmp_path / "file")
    (tmp_path / DATABASE).write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="the jobs cannot be kept in"):
        Store(tmp_path)


def test_a_newer_one_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._database.execute("pragma user_version = 99")
    store.close()
    with pytest.raises(UserError, match="kept by a newer diafano"):
        Store(tmp_path)


@pytest.mark.parametrize("after", [0.02, 0.1, 0.3])
def test_killed_at_any_moment_nothing_that_was_told_is_lost(tmp_path: Path, after: float) -> None:
    """A process accepts and draws, and says so after each; it is killed; what it said is there."""
    code = f"""
    from pathlib import Path
    from PIL import Image
    from diafano.jobs.queue.job import Job, Order
    from diafano.jobs.queue.store import Store
    store = Store(Path({str(tmp_path)!r}))
    order = Order(prompt="a fox", settings={{"seed": 3}})
    print("begun", flush=True)
    while True:
        job = Job(order=order, owner="me")
        store.accept(job)
        print("accepted", job.id, flush=True)
        made = store.add_picture(job, 0, Image.new("RGB", (200, 200)), 3)
        print("made", made.path, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    said = [line.split() for line in process.communicate()[0].splitlines() if line.count(" ") == 1]
    store = Store(tmp_path)
    kept = {made.path for made in store.gallery(limit=-1)}
    for what, name in said:
        assert store.job(name) is not None if what == "accepted" else name in kept
    for made in store.gallery(limit=-1):
        with Image.open(store.file(made)) as file:
            file.load()
