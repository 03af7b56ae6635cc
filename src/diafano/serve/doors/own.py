"""diafano's own interface: jobs, their events, their pictures, the gallery, what can be asked for."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Body, Query
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from diafano.errors import UserError
from diafano.jobs.queue.job import Job, Made, State
from diafano.jobs.queue.live import as_bytes
from diafano.jobs.queue.shelf import EMBEDDED_NAME
from diafano.pictures.metadata import parameters_of
from diafano.request.fields import sampler_name, schedule_name
from diafano.request.recorded import from_infotext
from diafano.request.settings import GROUPS, SETTINGS
from diafano.sampling.samplers.table import SAMPLERS
from diafano.sampling.sigmas import SCHEDULES
from diafano.serve.limits import from_base64
from diafano.serve.service import Service, in_thread, owner

EXAMPLE = "a penguin on a red background"
"""What stands in the form at first, so that one click draws."""


class Asked(BaseModel):
    """A job to accept."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(description="What the picture shows.")
    settings: dict[str, Any] = Field(default_factory=dict, description="By the names of docs/settings.md.")
    model: str | None = Field(None, description="One of /api/models.")
    image: str | None = Field(None, description="A picture to draw over, as base64.")
    mask: str | None = Field(None, description="White where that is drawn anew, as base64.")


def router(service: Service) -> APIRouter:
    """The routes of this door."""
    routes = APIRouter(prefix="/api", tags=["diafano"])
    queue, store = service.queue, service.store

    def own(id: str, caller: str) -> Job:
        job = store.job(id)
        if job is None or job.owner != caller:
            raise Missing(f"there is no job {id!r}")
        return job

    @routes.post("/jobs", status_code=202)
    async def submit(asked: Asked, request: Request) -> dict[str, Any]:
        """Accept a job; what it leaves open is decided at once, and it is drawn even if the server ends."""

        def read(text: str | None, what: str) -> Any:
            return None if text is None else from_base64(text, service.limits, what)

        image, mask = await in_thread(read, asked.image, "the image"), await in_thread(read, asked.mask, "the mask")
        job = await service.order(
            asked.prompt, asked.settings, owner=owner(request), door="own", model=asked.model, image=image, mask=mask
        )
        return told(service, job)

    @routes.get("/jobs")
    async def jobs(
        request: Request,
        state: list[State] = Query(default=[]),  # noqa: B008 (fastapi's)
        limit: int = Query(100, ge=1, le=1000),
        before: float | None = None,
    ) -> list[dict[str, Any]]:
        """Your own jobs, the newest first."""
        found = await in_thread(lambda: store.jobs(owner=owner(request), states=state, limit=limit, before=before))
        return [told(service, job) for job in found]

    @routes.get("/jobs/{id}")
    async def job(id: str, request: Request) -> dict[str, Any]:
        """One of your jobs."""
        return told(service, await in_thread(own, id, owner(request)))

    @routes.delete("/jobs/{id}")
    async def cancel(id: str, request: Request, keep: bool = False) -> dict[str, Any]:
        """End a job: one that waits at once, one that is drawn at its next step; `keep` what is drawn so far."""
        found = await in_thread(own, id, owner(request))
        await in_thread(lambda: queue.cancel(found.id, keep=keep))
        return told(service, await in_thread(own, id, owner(request)))

    @routes.post("/jobs/{id}/retry", status_code=202)
    async def retry(id: str, request: Request) -> dict[str, Any]:
        """The same order once more, as a new job."""
        await in_thread(own, id, owner(request))
        return told(service, await in_thread(queue.retry, id, owner(request)))

    @routes.post("/jobs/{id}/front")
    async def front(id: str, request: Request) -> dict[str, Any]:
        """Before all your other jobs."""
        found = await in_thread(own, id, owner(request))
        queue.turns.put_first(found.id)
        return told(service, found)

    @routes.get("/jobs/{id}/pictures/{place}")
    async def picture(id: str, place: int, request: Request) -> Response:
        """A picture's file, with its settings inside."""
        found = await in_thread(own, id, owner(request))
        for made in await in_thread(store.pictures, found.id):
            if made.place == place and store.file(made).is_file():
                return FileResponse(store.file(made), media_type="image/png", headers={"cache-control": "private"})
        raise Missing(f"the job {id!r} has no picture {place}")

    @routes.get("/jobs/{id}/preview")
    async def preview(id: str, request: Request) -> Response:
        """What its first picture looks like so far, as WebP; nothing (204) while there is none."""
        found = await in_thread(own, id, owner(request))
        queue.watch()
        live = queue.live(found.id)
        if live is None or live.preview is None:
            return Response(status_code=204)
        shown = await in_thread(as_bytes, live.preview)
        return Response(shown, media_type="image/webp", headers={"cache-control": "no-store"})

    @routes.get("/events")
    async def events(request: Request) -> StreamingResponse:
        """Server-sent events of your jobs: `state`, `step` and their `job`."""
        caller = owner(request)

        async def stream() -> AsyncIterator[str]:
            yield "retry: 1000\n\n"
            async for event in service.events(lambda event: event.owner == caller):
                if event is None:
                    yield ": still here\n\n"
                    continue
                found = await in_thread(store.job, event.job)
                if found is not None:
                    data = json.dumps(told(service, found))
                    yield f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    @routes.get("/pictures")
    async def pictures(
        request: Request, words: str = "", limit: int = Query(100, ge=1, le=1000), before: float | None = None
    ) -> list[dict[str, Any]]:
        """Your gallery, the newest first: pictures whose settings have all these words."""
        found = await in_thread(lambda: store.gallery(owner=owner(request), words=words, limit=limit, before=before))
        return [shown(made) for made in found]

    @routes.get("/models")
    async def models() -> list[dict[str, Any]]:
        """What can be drawn with, and which of them are in memory."""
        held = queue.shelf.held
        return [{"name": name, "in_memory": name in held} for name in await in_thread(queue.shelf.names)]

    @routes.get("/choices")
    async def choices() -> dict[str, Any]:
        """What a form offers: names, sizes, and what the embedded model does when nothing is said."""
        card = (await in_thread(queue.shelf.get, EMBEDDED_NAME)).card
        width, height = card.size
        shapes = [(1, 1), (2, 2), (2, 1), (1, 2)]
        return {
            "models": [*await in_thread(queue.shelf.names)],
            "samplers": [{"name": row.name, "label": row.label} for row in SAMPLERS.values()],
            "schedules": [{"name": row.name, "label": row.label} for row in SCHEDULES.values()],
            "sizes": [f"{width * across}x{height * down}" for across, down in shapes],
            "steps": card.steps,
            "guidance": card.guidance,
            "example": EXAMPLE,
        }

    @routes.post("/read")
    async def read_settings(image: str = Body(embed=True)) -> dict[str, Any]:
        """The prompt and the settings that a picture carries; nothing of it is kept."""
        picture = await in_thread(from_base64, image, service.limits)
        text = await in_thread(parameters_of, picture)
        if text is None:
            return {"prompt": "", "settings": {}, "ignored": []}
        recorded = await in_thread(from_infotext, text)
        said = dict(recorded.settings)
        for name, find in (("sampler", sampler_name), ("schedule", schedule_name)):  # as `choices` names them
            if name in said:
                said[name] = find(said[name])
        return {"prompt": recorded.prompt, "settings": said, "ignored": list(recorded.ignored)}

    @routes.get("/settings")
    async def settings() -> list[dict[str, Any]]:
        """Every setting, in the groups in which they are shown."""
        return [
            {"name": name, "group": row.group.title, "help": row.setting.help, "value": row.setting.metavar}
            for group in dict.fromkeys(GROUPS)
            for name, row in SETTINGS.items()
            if row.group is group
        ]

    return routes


class Missing(UserError):
    """What was asked for is not there (404)."""


def told(service: Service, job: Job) -> dict[str, Any]:
    """A job as this door tells of it."""
    live = service.queue.live(job.id)
    progress = None
    if live is not None:
        progress = {"step": live.step, "steps": live.steps, "seconds_left": live.seconds_left}
    return {
        "id": job.id,
        "state": job.state,
        "prompt": job.order.prompt,
        "settings": job.order.settings,
        "model": job.order.model,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "error": job.error,
        "notes": job.notes,
        "position": service.queue.turns.position(job.id),
        "progress": progress,
        "pictures": [shown(made) for made in service.store.pictures(job.id)],
        "url": f"/api/jobs/{job.id}",
    }


def shown(made: Made) -> dict[str, Any]:
    """A picture as this door tells of it."""
    return {
        "url": f"/api/jobs/{made.job}/pictures/{made.place}",
        "job": made.job,
        "place": made.place,
        "width": made.width,
        "height": made.height,
        "seed": made.seed,
        "created": made.created,
        "parameters": made.parameters,
    }
