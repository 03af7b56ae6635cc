"""Errors in the form of the door at which a client stands."""

from typing import Any

from starlette.responses import JSONResponse

TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 403: "invalid_request_error"}
CODES = {401: "invalid_api_key", 404: "not_found", 413: "request_too_large", 429: "rate_limit_exceeded"}
RETRY_SECONDS = 5


def refusal_reply(path: str, status: int, sentence: str, param: str | None = None) -> JSONResponse:
    """A refusal as OpenAI's clients (``/v1``), A1111's (``/sdapi``, ``/controlnet``, ``/internal``) or ours read it."""
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer" if path.startswith("/v1") else 'Basic realm="diafano"'
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_SECONDS)
    if path.startswith("/v1"):
        kind = "server_error" if status >= 500 else TYPES.get(status, "invalid_request_error")
        body: dict[str, Any] = {"error": {"message": sentence, "type": kind, "param": param, "code": CODES.get(status)}}
    elif path.startswith(("/sdapi", "/controlnet", "/internal")):
        body = {
            "error": "HTTPException" if status < 500 else "Exception",
            "detail": sentence,
            "body": "",
            "errors": sentence,
        }
    else:
        body = {"error": sentence, "field": param}
    return JSONResponse(body, status, headers)
