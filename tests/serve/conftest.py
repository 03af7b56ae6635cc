"""A real server on a port of loopback, in a thread of this process, with a model that draws in no time."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from diafano.jobs.queue.queue import Queue  # noqa: E402
from diafano.jobs.queue.shelf import Shelf  # noqa: E402
from diafano.jobs.queue.store import Store  # noqa: E402
from diafano.serve.app import make_app  # noqa: E402
from diafano.serve.limits import Limits  # noqa: E402
from diafano.serve.service import Service  # noqa: E402
from diafano.stable_diffusion import StableDiffusion  # noqa: E402
from jobs.queue.given import Given  # noqa: E402


@dataclass
class Served:
    url: str
    service: Service
    http: httpx.Client


@contextlib.contextmanager
def serving(folder: Path, shelf: Shelf, **options: Any) -> Iterator[Served]:
    limits = options.pop("limits", None) or Limits(steps=1000)
    service = Service(Queue(Store(folder), shelf), limits)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(service, stop_seconds=2.0, **options), log_level="warning", timeout_graceful_shutdown=1
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        begun = time.monotonic()
        while not server.started:
            assert time.monotonic() - begun < 20 and thread.is_alive(), "the server does not begin"
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Served(url, service, client)
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture
def serve(tmp_path: Path, tiny_model: StableDiffusion) -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def begin(*names: str, **options: Any) -> Served:
            return stack.enter_context(serving(tmp_path / "served", Given(tiny_model, *names), **options))

        yield begin


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve("dreams")
