"""Before any door: who may come in, and from where. Plain ASGI, so that a client's leaving is seen behind it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from diafano.serve.callers import Credentials, owner_of
from diafano.serve.replies import refusal_reply

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

OPEN = ("/healthz",)
"""Paths that say nothing but whether the server is there."""
SAFE = ("GET", "HEAD", "OPTIONS")
CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; frame-ancestors 'none'; base-uri 'none';"
    " form-action 'self'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Gate:
    """Refuses foreign hosts (DNS rebinding), foreign pages (cross-site requests), those without credentials, and
    bodies that are too large; tells what is behind it the caller's `owner`."""

    def __init__(
        self,
        app: App,
        *,
        hosts: frozenset[str],
        origins: frozenset[str] = frozenset(),
        credentials: Credentials | None = None,
        most_bytes: int,
    ) -> None:
        """`hosts` are names without ports; `origins` are pages of others that may ask ("https://example.org")."""
        self.app, self.hosts, self.origins = app, hosts, origins
        self.credentials = Credentials() if credentials is None else credentials
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        refused = self._refused(scope, headers)
        if refused is not None:
            status, sentence = refused
            await refusal_reply(path, status, sentence)(scope, receive, send)
            return
        user = self.credentials.user(headers.get("authorization", "")) if self.credentials else None
        if self.credentials and user is None and path not in OPEN:
            await refusal_reply(path, 401, "this server asks for a key: give it with the request")(scope, receive, send)
            return
        client = scope.get("client") or ("unknown", 0)
        scope.setdefault("state", {})["owner"] = owner_of(headers, client[0], user)

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                own = ((name.encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = [*message["headers"], *(one for one in own if one[0] not in given)]
            await send(message)

        await self.app(scope, self._counted(receive), sending)

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host.lower() not in self.hosts:
            return 400, f"this server is not called {host!r}: name it with --allowed-host if it is"
        if scope["method"] not in SAFE:
            origin = headers.get("origin")
            own = f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
            if origin is not None and origin != own and origin not in self.origins:
                return 403, f"a page of {origin} asks: allow it with --cors-origin if it may"
            if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                return 403, "another site's page asks: that is not allowed"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most_bytes:
            return 413, f"the request is too large: send at most {self.most_bytes // 2**20} MiB"
        return None

    def _counted(self, receive: Any) -> Any:
        """A body without a length may be no larger either."""
        seen = 0

        async def receiving() -> Any:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.most_bytes:
                    return {"type": "http.disconnect"}
            return message

        return receiving
