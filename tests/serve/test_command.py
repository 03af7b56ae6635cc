"""`diafano serve` itself, as a process: it begins, ends as it should, and goes on after it was killed."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

SECONDS = 90


@dataclass
class Process:
    process: subprocess.Popen[str]
    http: httpx.Client


@contextlib.contextmanager
def started(folder: Path, *options: str, **environment: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "diafano", "serve", "--port", "0", "--folder", str(folder), *options]
    told = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = process.stderr.readline().strip()
        assert url.startswith("http://localhost:"), url
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            yield Process(process, client)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def ended(http: httpx.Client, ids: list[str]) -> list[dict[str, Any]]:
    begun = time.monotonic()
    while True:
        jobs = [http.get(f"/api/jobs/{id}").json() for id in ids]
        if all(job["state"] in ("done", "failed", "cancelled") for job in jobs):
            return jobs
        assert time.monotonic() - begun < SECONDS
        time.sleep(0.1)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_under_load_it_draws_what_it_had_accepted(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with started(tmp_path) as first:
        ids: list[str] = []
        for number in range(8):
            asked = {"prompt": f"a fox {number}", "settings": {"steps": 12, "seed": number, "guidance": 1 + number % 2}}
            ids.append(first.http.post("/api/jobs", json=asked).json()["id"])
        time.sleep(chance.uniform(0.0, 2.0))
        first.process.send_signal(signal.SIGKILL)
    with started(tmp_path) as second:
        jobs = ended(second.http, ids)
        assert [job["state"] for job in jobs] == ["done"] * 8
        for number, job in enumerate(jobs):
            (picture,) = job["pictures"]
            assert (picture["seed"], picture["parameters"].startswith(f"a fox {number}\n")) == (number, True)
        assert len(second.http.get("/api/pictures").json()) == 8
    files = list((tmp_path / "pictures").rglob("*.png"))
    assert len(files) == 8
    for file in files:
        with Image.open(file) as picture:
            picture.load()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(tmp_path: Path, by: signal.Signals) -> None:
    with started(tmp_path) as server:
        job = server.http.post("/api/jobs", json={"prompt": "a fox", "settings": {"steps": 3}}).json()
        server.process.send_signal(by)
        server.process.wait(SECONDS)
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()
    with started(tmp_path) as again:
        assert ended(again.http, [job["id"]])[0]["state"] == "done"


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diafano", "serve", *options]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS)


def test_what_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("--port", port, "--folder", str(tmp_path / "a"))
    assert result.returncode == 2
    assert result.stderr.startswith(f"diafano: the server cannot listen at 127.0.0.1, port {port} (")
    (tmp_path / "file").touch()
    (tmp_path / "keys.json").write_text(json.dumps({"ada": "short"}))
    for options, said in (
        (("--host", "0.0.0.0"), "everybody who reaches this machine could draw"),
        (("--folder", str(tmp_path / "file")), "the jobs cannot be kept in"),
        (("--models", str(tmp_path / "none")), "there is no folder of models"),
        (("--keys", str(tmp_path / "keys.json")), "holds no keys of at least 8 characters"),
        (("--keys", str(tmp_path / "none")), "cannot be read"),
    ):
        result = run("--port", "0", *(() if "--folder" in options else ("--folder", str(tmp_path / "b"))), *options)
        assert result.returncode == 2
        assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_keys_from_the_environment(tmp_path: Path) -> None:
    with started(tmp_path, DIAFANO_KEYS='{"ada": "a long word"}') as server:
        assert server.http.get("/api/jobs").status_code == 401
        assert server.http.get("/api/jobs", headers={"authorization": "Bearer a long word"}).status_code == 200
