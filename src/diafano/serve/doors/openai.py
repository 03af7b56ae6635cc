"""OpenAI's images interface: generations, edits, variations, models.

Every setting of ours may stand beside their fields (`extra_body` of their clients). Their clients repeat what ends in
408, 409, 429 or 5xx: a user's mistake is a 400.
"""

import base64
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from diafano.errors import UserError
from diafano.jobs.queue.job import Job, State
from diafano.jobs.queue.live import as_bytes
from diafano.pictures.files import SAVE_OPTIONS
from diafano.pictures.metadata import metadata
from diafano.request.recorded import from_infotext
from diafano.request.settings import SETTINGS
from diafano.serve.doors.own import Missing
from diafano.serve.limits import clear_parts, from_bytes
from diafano.serve.replies import refusal_reply
from diafano.serve.service import Service, in_thread, owner

QUALITIES = {"low": 10, "medium": 20, "standard": 20, "high": 30, "hd": 30, "xhigh": 50, "max": 50}
"""Steps; "auto" is the model's own."""
FORMATS = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP"}
OTHERS = ("dall-e", "gpt-image", "chatgpt")
"""How names of models begin that programs have built in: they mean the one that is here."""
MOST = 10
IGNORED = frozenset({"moderation", "style", "safety_identifier", "background", "input_fidelity", "complexity"})
THEIRS = frozenset(
    {"prompt", "model", "n", "size", "quality", "output_format", "output_compression", "partial_images", "stream"}
    | {"response_format", "user", "image", "image[]", "mask", "negative_prompt", "cfg_scale"}
)


class Wrong(UserError):
    """A mistake in one field, which their form of errors names."""

    def __init__(self, param: str, sentence: str) -> None:
        super().__init__(sentence)
        self.param = param


def router(service: Service) -> APIRouter:
    """The routes of this door."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI images"])

    @routes.post("/images/generations", response_model=None)
    async def generations(request: Request) -> Response:
        """Pictures that show a prompt."""
        return await answer(service, request, await body_of(request), "image_generation")

    @routes.post("/images/edits", response_model=None)
    async def edits(request: Request) -> Response:
        """A picture drawn over: where the mask is transparent, where the picture itself is, or everywhere."""
        given = await form_of(request)
        image = await picture_in(service, given, "image")
        told = await picture_in(service, given, "mask") if "mask" in given else image
        mask = clear_parts(told)
        if mask is None and told is not image:
            raise Wrong("mask", "the mask has no transparent part: make what is to be drawn anew transparent")
        fields = dict(given)
        if mask is None or "strength" not in fields:
            fields.setdefault("strength", "0.5" if fields.get("input_fidelity") == "high" else "0.75")
        return await answer(service, request, fields, "image_edit", image, mask)

    @routes.post("/images/variations", response_model=None)
    async def variations(request: Request) -> Response:
        """Others like a picture, after the prompt that it carries if it does."""
        given = await form_of(request)
        image = await picture_in(service, given, "image")
        fields = {"strength": "0.75", "prompt": prompt_inside(image), **given}
        return await answer(service, request, fields, "image_edit", image)

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """What can be drawn with."""
        names = await in_thread(service.queue.shelf.names)
        return {"object": "list", "data": [_model(name) for name in names]}

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        if name not in await in_thread(service.queue.shelf.names):
            raise Missing(f"there is no model {name!r}: GET /v1/models lists those that are here")
        return _model(name)

    return routes


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "diafano"}


async def body_of(request: Request) -> dict[str, Any]:
    """The fields of a JSON body. Raises UserError for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a foreign page can send without asking first is of other kinds
        raise Wrong("body", f"the body is {kind or 'of no stated type'}: send JSON, as application/json")
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Wrong("body", "the body is no JSON: send an object with a prompt") from None
    if not isinstance(fields, dict):
        raise Wrong("body", "the body is no JSON object: send one with a prompt")
    return fields


async def form_of(request: Request) -> dict[str, Any]:
    """The fields of a form, an uploaded picture as its bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Wrong("body", f"the body is {kind or 'of no stated type'}: send a form, as multipart/form-data")
    form: FormData = await request.form(max_files=16, max_fields=200)
    found: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            name = "image" if name == "image[]" else name
            said = await value.read() if isinstance(value, UploadFile) else value
            if name == "image" and "image" in found:
                raise Wrong("image", "there are several pictures: this model draws over one, send one")
            found[name] = said
    finally:
        await form.close()
    return found


async def picture_in(service: Service, fields: dict[str, Any], name: str) -> Image.Image:
    """Take a picture's bytes out of the fields."""
    data = fields.pop(name, None) if name == "image" else fields.get(name)
    if not isinstance(data, bytes):
        raise Wrong(name, f"{name} is missing: send the picture's file")
    return await in_thread(from_bytes, data, service.limits, f"the {name}")


def prompt_inside(image: Image.Image) -> str:
    """The prompt that a picture carries, or none."""
    text = image.info.get("parameters")
    try:
        return from_infotext(text).prompt if isinstance(text, str) else ""
    except UserError:
        return ""


def settings_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Their fields, and ours beside them, as our settings. Raises `Wrong`."""
    unknown = [name for name in fields if name not in THEIRS | IGNORED | SETTINGS.keys()]
    if unknown:
        raise Wrong(unknown[0], f"there is no field {unknown[0]!r}: docs/settings.md has those of ours")
    count = whole(fields, "n", 1)
    if not 1 <= count <= MOST:
        raise Wrong("n", f"n {count} is not possible: give a whole number from 1 to {MOST}")
    found: dict[str, Any] = {"count": count}
    size = fields.get("size")
    if size not in (None, "auto", ""):
        found["size"] = size
    quality = fields.get("quality")
    if quality in QUALITIES:
        found["steps"] = QUALITIES[quality]
    elif quality not in (None, "auto"):
        raise Wrong("quality", f"quality {quality!r} is not possible: use auto, {', '.join(QUALITIES)}")
    for theirs, ours in (("negative_prompt", "negative"), ("cfg_scale", "guidance")):
        if fields.get(theirs) is not None:
            found[ours] = fields[theirs]
    for name, row in SETTINGS.items():
        if name in fields and name not in THEIRS and fields[name] is not None:
            found[name] = typed(name, fields[name], row.typed)
    return found


def typed(name: str, value: Any, kind: type) -> Any:
    """A value of a form is a text: as what the setting is."""
    if not isinstance(value, str) or kind is str:
        return value
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return kind(value)
    except (KeyError, ValueError):
        raise Wrong(name, f"{name} {value!r} is not possible: it is no {kind.__name__}") from None


def whole(fields: Mapping[str, Any], name: str, otherwise: int) -> int:
    """A whole number, of JSON or of a form."""
    value = fields.get(name)
    if value is None or value == "":
        return otherwise
    try:
        if isinstance(value, bool):
            raise ValueError
        return int(value) if isinstance(value, str) or int(value) == value else int("x")
    except (TypeError, ValueError, OverflowError):
        raise Wrong(name, f"{name} {value!r} is not possible: give a whole number") from None


async def answer(
    service: Service,
    request: Request,
    fields: Mapping[str, Any],
    event: str,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
) -> Response:
    """Draw, and reply in one piece or as a stream of events."""
    try:
        asked = Asked(service, fields)
        job = await service.order(
            asked.prompt,
            asked.settings,
            owner=f"user {fields['user']}" if isinstance(fields.get("user"), str) else owner(request),
            door="openai",
            model=asked.model,
            image=image,
            mask=mask,
            fit=True,
        )
    except Wrong as error:
        return refusal_reply("/v1", 400, str(error), error.param)
    if asked.stream:
        return StreamingResponse(stream(service, job, asked, event, request), media_type="text/event-stream")
    ended = await service.ended(job, request)
    if ended.state is not State.done:
        status = 499 if ended.state is State.cancelled else 500
        headers = {"x-should-retry": "false"}
        reply = refusal_reply("/v1", status, ended.error or "the job was cancelled")
        reply.headers.update(headers)
        return reply
    data = [asked.item(request, job, made, data) for made, data in await service.files(ended)]
    return JSONResponse({"created": int(time.time()), "data": data, **asked.echo(ended)})


class Asked:
    """What a request of this door says, checked."""

    def __init__(self, service: Service, fields: Mapping[str, Any]) -> None:
        prompt = fields.get("prompt")
        if not isinstance(prompt, str):
            raise Wrong("prompt", "the prompt is missing: give a text")
        self.prompt = prompt
        self.settings = settings_of(fields)
        self.quality = fields.get("quality") or "auto"
        self.stream = fields.get("stream") in (True, "true", "True", "1")
        self.partial = whole(fields, "partial_images", 0)
        if not 0 <= self.partial <= 3:
            raise Wrong("partial_images", f"partial_images {self.partial} is not possible: give a number from 0 to 3")
        self.format = fields.get("output_format") or "png"
        if self.format not in FORMATS:
            raise Wrong("output_format", f"output_format {self.format!r} is not possible: use png, jpeg or webp")
        self.compression = whole(fields, "output_compression", 100)
        if not 0 <= self.compression <= 100:
            raise Wrong("output_compression", f"output_compression {self.compression} is not possible: 0 to 100")
        self.response = fields.get("response_format") or "b64_json"
        if self.response not in ("b64_json", "url"):
            raise Wrong("response_format", f"response_format {self.response!r} is not possible: use b64_json or url")
        model = fields.get("model")
        if model is not None and not isinstance(model, str):
            raise Wrong("model", f"model {model!r} is not possible: give a name")
        self.model = None
        if model and not model.lower().startswith(OTHERS):
            try:
                self.model = service.queue.shelf.find(model)
            except UserError as error:
                raise Wrong("model", str(error)) from None

    def item(self, request: Request, job: Job, made: Any, file: bytes) -> dict[str, Any]:
        """One of `data`."""
        extra = {"revised_prompt": None, "seed": made.seed}
        if self.response == "url":
            return {"url": f"{str(request.base_url).rstrip('/')}/api/jobs/{job.id}/pictures/{made.place}", **extra}
        return {"b64_json": base64.b64encode(self.encoded(file)).decode(), **extra}

    def encoded(self, file: bytes) -> bytes:
        """The file in the format that is asked for, its settings inside."""
        if self.format == "png":
            return file
        with Image.open(io.BytesIO(file)) as picture:
            text = picture.info.get("parameters")
            made = io.BytesIO()
            kind = FORMATS[self.format]
            options = SAVE_OPTIONS[kind] | metadata(kind, text) | {"quality": max(1, self.compression)}
            picture.convert("RGB").save(made, kind, **options)
        return made.getvalue()

    def echo(self, job: Job) -> dict[str, Any]:
        """What a reply says again, as it was done."""
        width, height = job.order.settings["size"]
        return {
            "background": "opaque",
            "output_format": self.format,
            "quality": self.quality,
            "size": f"{width}x{height}",
            "usage": {
                "input_tokens": 0,
                "output_tokens": 0,
                "total_tokens": 0,
                "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
            },
            **({"notes": list(job.notes)} if job.notes else {}),
        }


async def stream(service: Service, job: Job, asked: Asked, event: str, request: Request) -> AsyncIterator[str]:
    """Partial pictures spread over the steps, then the finished ones, as server-sent events."""

    def said(kind: str, fields: dict[str, Any]) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"

    common = {name: value for name, value in asked.echo(job).items() if name not in ("usage", "notes")}
    shown = 0
    found: Job | None = job
    async for heard in service.events(lambda one: one.job == job.id):
        if asked.partial:
            service.queue.watch()
        found = await in_thread(service.store.job, job.id)
        assert found is not None, "jobs are not removed"
        live = service.queue.live(job.id)
        if live is not None and live.preview is not None and shown < asked.partial:
            due = live.steps * (shown + 1) / (asked.partial + 1)
            if live.step >= due:
                file = await in_thread(as_bytes, live.preview, FORMATS[asked.format])
                picture = base64.b64encode(file).decode()
                fields = {"b64_json": picture, "created_at": int(time.time()), "partial_image_index": shown}
                yield said(f"{event}.partial_image", {**fields, **common})
                shown += 1
        if found.state.final:
            break
        if heard is None:
            yield ": still here\n\n"
        if await request.is_disconnected():
            await in_thread(service.queue.cancel, job.id)
            return
    assert found is not None
    if found.state is not State.done:
        error = {"message": found.error or "the job was cancelled", "type": "server_error", "param": None, "code": None}
        yield f"data: {json.dumps({'error': error})}\n\n"
        return
    for made, file in await service.files(found):
        picture = base64.b64encode(await in_thread(asked.encoded, file)).decode()
        fields = {"b64_json": picture, "created_at": int(time.time()), "seed": made.seed}
        yield said(f"{event}.completed", {**asked.echo(found), **fields})
