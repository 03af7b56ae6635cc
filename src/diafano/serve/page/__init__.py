"""The page on which one draws: static files, served by a fixed table; nothing is fetched from any other host."""

import secrets
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from diafano.serve.callers import COOKIE

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FILES = ("index.html", "style.css", "page.js", "words.js", "icon.svg")
YEAR = 365 * 24 * 3600


def router() -> APIRouter:
    """A route for each file; the page itself at the root, with a cookie by which its browser is known again."""
    routes = APIRouter(include_in_schema=False)
    contents = {name: files(__package__).joinpath(name).read_bytes() for name in FILES}

    def reply(name: str) -> Response:
        kind = KINDS[name.rpartition(".")[2]]
        return Response(contents[name], media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        found = reply("index.html")
        if COOKIE not in request.cookies:
            found.set_cookie(COOKIE, secrets.token_hex(16), max_age=YEAR, httponly=True, samesite="strict")
        return found

    def route(name: str) -> None:
        @routes.get(f"/{name}")
        async def file() -> Response:
            return reply(name)

    for name in FILES[1:]:
        route(name)
    return routes
