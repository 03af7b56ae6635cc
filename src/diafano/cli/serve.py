"""`diafano serve`: a queue of drawings, and the interfaces by which clients ask for them, on a port of this machine."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from diafano.cli import options as option
from diafano.errors import UserError

PORT = 7860
KEYS = "DIAFANO_KEYS"


def command(
    host: Annotated[str, typer.Option(help="Address to listen at.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", metavar="N", min=0, max=65535)] = PORT,
    folder: Annotated[
        Path, typer.Option(help="Where jobs and pictures are kept; made if it is not there.", metavar="FOLDER")
    ] = Path("served"),
    models: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of models, diffusers' folders and single files; may be repeated.", metavar="FOLDER"),
    ] = None,
    in_memory: Annotated[
        int, typer.Option("--models-in-memory", help="How many models are kept loaded at most.", metavar="N", min=1)
    ] = 2,
    keys: Annotated[
        Path | None,
        typer.Option(
            help=f'JSON file of users and their keys, {{"ada": "..."}}; or the same in the variable {KEYS}. A key is a'
            " bearer token, and a password.",
            metavar="FILE",
        ),
    ] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Listen beyond this machine without keys.")] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name that this server is called by; may be repeated.", metavar="NAME"),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Page of others that may ask, https://example.org; may be repeated.", metavar="ORIGIN"),
    ] = None,
    dtype: option.DType = "auto",
    device: option.Device = "auto",
) -> None:
    """Draw for clients: diafano's own interface under /api, OpenAI's images interface under /v1.

    What has been accepted is drawn even if the server ends meanwhile: it goes on when it is started again with the same
    folder. Ctrl-C lets what is drawn end first.
    """
    try:
        import uvicorn

        from diafano.serve.app import LOOPBACK, make_app
    except ImportError as error:
        raise UserError(f"the server needs more ({error.name}): pip install 'diafano[serve]'") from None
    from diafano.jobs.queue.queue import Queue
    from diafano.jobs.queue.shelf import Shelf
    from diafano.jobs.queue.store import Store
    from diafano.serve.callers import Credentials
    from diafano.serve.limits import Limits
    from diafano.serve.service import Service

    credentials = Credentials(read_keys(keys))
    if host not in LOOPBACK and not credentials and not no_keys:
        raise UserError(
            f"at {host} everybody who reaches this machine could draw: give --keys, or --no-keys if that is meant"
        )
    for one in models or []:
        if not one.is_dir():
            raise UserError(f"there is no folder of models {str(one)!r}: check the name")
    store = Store(folder)
    shelf = Shelf(models or [], in_memory, device, dtype)
    service = Service(Queue(store, shelf), Limits())
    hosts = LOOPBACK | {host} | set(allowed_host or [])
    app = make_app(service, hosts=hosts, origins=frozenset(cors_origin or []), credentials=credentials)
    with listening(host, port) as taken:
        found = taken.getsockname()[1]
        print(f"http://{'localhost' if host in LOOPBACK else host}:{found}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=5, server_header=False, lifespan="on"
        )
        uvicorn.Server(config).run(sockets=[taken])


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there (at 0, at any port that is free). Raises UserError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        taken = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the server cannot listen at {host}, port {port} ({reason}): give another --port") from None
    with taken:
        yield taken


def read_keys(path: Path | None) -> dict[str, str]:
    """Users and their keys. Raises UserError for what is no such list."""
    text = os.environ.get(KEYS, "") if path is None else None
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the keys in {str(path)!r} cannot be read ({error}): check the file") from None
    if not text:
        return {}
    where = f"the variable {KEYS}" if path is None else repr(str(path))
    try:
        found = json.loads(text)
    except ValueError:
        raise UserError(f'{where} holds no JSON: write {{"name": "key"}}') from None
    if not isinstance(found, dict) or not all(isinstance(key, str) and len(key) >= 8 for key in found.values()):
        raise UserError(f'{where} holds no keys of at least 8 characters: write {{"name": "key"}}')
    return found
