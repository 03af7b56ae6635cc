"""The application: doors around one queue, errors in each door's own words, beginning and ending."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from diafano import __version__
from diafano.errors import UserError
from diafano.jobs.queue.turns import Full
from diafano.serve import page
from diafano.serve.callers import Credentials
from diafano.serve.doors import openai, own
from diafano.serve.doors.a1111 import routes as a1111
from diafano.serve.gate import Gate
from diafano.serve.replies import refusal_reply
from diafano.serve.service import Service, in_thread

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def make_app(
    service: Service,
    *,
    hosts: frozenset[str] = LOOPBACK,
    origins: frozenset[str] = frozenset(),
    credentials: Credentials | None = None,
    stop_seconds: float = 30.0,
) -> Gate:
    """The ASGI application. `hosts` are the names that it goes by, `origins` foreign pages that may ask."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        service.queue.start()
        yield
        await in_thread(service.queue.stop, stop_seconds)
        await in_thread(service.store.close)

    app = FastAPI(
        title="diafano",
        version=__version__,
        description="Stable Diffusion that you can see through: one queue, and the interfaces that clients speak.",
        lifespan=living,
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )
    for door in (own, openai, a1111):
        app.include_router(door.router(service))
    app.include_router(page.router())

    @app.get("/healthz", tags=["server"])
    async def health() -> dict[str, str]:
        """That the server is there; nothing else."""
        return {"status": "ok"}

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> JSONResponse:
        status = 404 if isinstance(error, own.Missing) else 429 if isinstance(error, Full) else 400
        return refusal_reply(request.url.path, status, str(error), field_of(str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        field = ".".join(where) or None
        sentence = f"{field}: {first['msg']}" if field else str(first["msg"])
        status = 400 if request.url.path.startswith("/v1") else 422
        return refusal_reply(request.url.path, status, sentence, field)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return refusal_reply(request.url.path, error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        logging.getLogger("diafano").error("a request failed", exc_info=error)
        return refusal_reply(request.url.path, 500, "this is a fault of the server's: its log says more")

    return Gate(app, hosts=hosts, origins=origins, credentials=credentials, most_bytes=service.limits.body)


def field_of(sentence: str) -> str | None:
    """The setting that a sentence begins with ("steps 0 is not possible"), for whoever shows it at its field."""
    from diafano.request.settings import SETTINGS

    word = sentence.split(" ", 1)[0].rstrip(":")
    return word if word in SETTINGS else None
