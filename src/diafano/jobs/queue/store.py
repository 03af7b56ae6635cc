"""Where jobs and their pictures are kept: a folder with an SQLite database and the pictures' files.

What has been accepted or finished is there after whatever happens to the process: each change is a transaction of a
database with a write-ahead log, and a picture's row is written after its file, which is written whole.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from diafano.errors import UserError
from diafano.files import numbered, refusal, slug, whole_file
from diafano.jobs.queue.job import Job, Made, Order, State
from diafano.pictures.files import save_new_picture

DATABASE, PICTURES, INPUTS = "jobs.sqlite", "pictures", "inputs"
VERSION = 1
TABLES = """
create table jobs (
    id text primary key, owner text not null, door text not null, state text not null, priority integer not null,
    created real not null, started real, ended real, tries integer not null, error text, notes text not null,
    request text not null
) strict;
create index jobs_by_state on jobs (state, created);
create index jobs_by_owner on jobs (owner, created);
create table pictures (
    job text not null references jobs (id), place integer not null, path text not null unique,
    width integer not null, height integer not null, seed integer not null, created real not null,
    parameters text not null, primary key (job, place)
) strict;
create index pictures_by_time on pictures (created);
"""
MOST_TRIES = 3
"""A job that was begun so often and ended with the process each time is what ends the process."""


class Store:
    """Safe to use from any thread. One process at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens what is in the folder, which is made if it is not there. Raises UserError where that cannot be."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / DATABASE, check_same_thread=False, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._lock = threading.RLock()
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            reason = refusal(error) if isinstance(error, OSError) else str(error)
            raise UserError(f"the jobs cannot be kept in {str(folder)!r} ({reason}): give another folder") from error

    def _prepare(self) -> None:
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = normal")  # safe from a killed process, not from a power cut
        self._database.execute("pragma foreign_keys = on")
        found = self._database.execute("pragma user_version").fetchone()[0]
        if found > VERSION:
            raise UserError(f"the jobs in {str(self.folder)!r} were kept by a newer diafano: use that one")
        if found == 0:
            self._database.executescript(f"begin; {TABLES} pragma user_version = {VERSION}; commit;")

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing."""
        with self._lock:
            self._database.execute("begin immediate")
            try:
                yield self._database
            except BaseException:
                self._database.execute("rollback")
                raise
            self._database.execute("commit")

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # ---- jobs

    def accept(self, job: Job) -> None:
        """From now on it is not lost. Raises UserError where a job of that id is there."""
        fields = job.model_dump(mode="json")
        fields["request"], fields["notes"] = json.dumps(fields.pop("order")), json.dumps(fields["notes"])
        try:
            with self._change() as database:
                names = ", ".join(fields)
                database.execute(
                    f"insert into jobs ({names}) values ({', '.join('?' * len(fields))})", [*fields.values()]
                )
        except sqlite3.IntegrityError:
            raise UserError(f"there is a job {job.id!r} already: give another id, or none") from None

    def job(self, id: str) -> Job | None:
        found = self._rows("select * from jobs where id = ?", [id])
        return _job(found[0]) if found else None

    def jobs(
        self,
        *,
        owner: str | None = None,
        states: Sequence[State] = (),
        limit: int = 100,
        before: float | None = None,
        oldest_first: bool = False,
    ) -> list[Job]:
        """Of that owner (None: all) and in these states (none: all), the newest first; created `before` a time."""
        conditions, values = ["1"], list[Any]()
        if owner is not None:
            conditions.append("owner = ?")
            values.append(owner)
        if states:
            conditions.append(f"state in ({', '.join('?' * len(states))})")
            values += states
        if before is not None:
            conditions.append("created < ?")
            values.append(before)
        order = "asc" if oldest_first else "desc"
        query = f"select * from jobs where {' and '.join(conditions)} order by created {order}, rowid {order} limit ?"
        return [_job(row) for row in self._rows(query, [*values, limit])]

    def change(self, id: str, **fields: Any) -> Job:
        """Set fields of a job that is not final yet; one that is stays as it is. Returns it as it is then."""
        if "notes" in fields:
            fields["notes"] = json.dumps(list(fields["notes"]))
        with self._change() as database:
            sets = ", ".join(f"{name} = ?" for name in fields)
            final = [one for one in State if one.final]
            marks = ", ".join("?" * len(final))
            database.execute(
                f"update jobs set {sets} where id = ? and state not in ({marks})", [*fields.values(), id, *final]
            )
        job = self.job(id)
        if job is None:
            raise UserError(f"there is no job {id!r}")
        return job

    def put_back(self) -> list[Job]:
        """What was being drawn when the process ended waits again; too often so, it has failed. Returns who wait."""
        for job in self.jobs(states=[State.drawing], limit=-1):
            if job.tries < MOST_TRIES:
                self.change(job.id, state=State.waiting, started=None)
            else:
                said = f"the server ended {job.tries} times while it drew this: ask for less at once"
                self.change(job.id, state=State.failed, ended=time.time(), error=said)
        return self.jobs(states=[State.waiting], limit=-1, oldest_first=True)

    # ---- pictures

    def add_picture(self, job: Job, place: int, picture: Image.Image, seed: int) -> Made:
        """Write a job's picture; what is there of it from an earlier try stays. Raises UserError where it cannot be."""
        if (there := [one for one in self.pictures(job.id) if one.place == place]) != []:
            return there[0]
        folder = self.folder / PICTURES / datetime.now().strftime("%Y-%m-%d")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(refusal(error)) from error
        path = save_new_picture(picture, numbered(folder / f"{slug(job.order.prompt)}-{seed}.png"))
        made = Made(
            job=job.id,
            place=place,
            path=path.relative_to(self.folder).as_posix(),
            width=picture.width,
            height=picture.height,
            seed=seed,
            created=time.time(),
            parameters=picture.info.get("parameters", ""),
        )
        fields = made.model_dump()
        try:
            with self._change() as database:
                database.execute(
                    f"insert into pictures ({', '.join(fields)}) values ({', '.join('?' * len(fields))})",
                    [*fields.values()],
                )
        except sqlite3.Error as error:
            path.unlink(missing_ok=True)  # nobody would know of it
            raise UserError(f"the picture cannot be kept in {str(self.folder)!r}: {error}") from error
        return made

    def pictures(self, job: str) -> list[Made]:
        """Those of a job, in their places' order."""
        return [_made(row) for row in self._rows("select * from pictures where job = ? order by place", [job])]

    def gallery(
        self, *, owner: str | None = None, words: str = "", limit: int = 100, before: float | None = None
    ) -> list[Made]:
        """The newest first, of an owner (None: all), whose settings have all these words, made `before` a time."""
        conditions, values = ["1"], list[Any]()
        if owner is not None:
            conditions.append("job in (select id from jobs where owner = ?)")
            values.append(owner)
        for word in words.split():
            conditions.append("instr(lower(parameters), ?)")
            values.append(word.lower())
        if before is not None:
            conditions.append("created < ?")
            values.append(before)
        query = f"select * from pictures where {' and '.join(conditions)} order by created desc limit ?"
        return [_made(row) for row in self._rows(query, [*values, limit])]

    def file(self, made: Made) -> Path:
        """The picture's file."""
        return self.folder / made.path

    # ---- pictures that are drawn over

    def keep_input(self, picture: Image.Image) -> str:
        """Keep a picture that a job needs, and return its name: equal ones are kept once."""
        digest = hashlib.sha256(repr((picture.mode, picture.size)).encode() + picture.tobytes()).hexdigest()
        path = self.folder / INPUTS / f"{digest}.png"
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as unfinished:
                    picture.save(unfinished, "PNG")
            except OSError as error:
                raise UserError(refusal(error, path)) from error
        return digest

    def input(self, name: str) -> Image.Image:
        """A picture that was kept, as it was given."""
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise UserError(f"{name!r} is no picture that was kept: send it first")
        try:
            with Image.open(self.folder / INPUTS / f"{name}.png") as picture:
                picture.load()
                return picture
        except OSError as error:
            raise UserError(f"the picture {name[:10]} is not kept any more: send it again") from error


def _insert(database: sqlite3.Connection, table: str, fields: Mapping[str, Any]) -> None:
    marks = ", ".join("?" * len(fields))
    database.execute(f"insert into {table} ({', '.join(fields)}) values ({marks})", [*fields.values()])


def _job(row: sqlite3.Row) -> Job:
    fields = dict(row)
    order, notes = Order.model_validate_json(fields.pop("request")), json.loads(fields.pop("notes"))
    return Job.model_validate({**fields, "order": order, "notes": tuple(notes)})


def _made(row: sqlite3.Row) -> Made:
    return Made.model_validate(dict(row))
