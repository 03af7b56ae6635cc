"""The routes: drawing, progress, interrupting, lists, png-info, extras."""

import base64
import io
import json
import time
from typing import Any

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse, Response
from PIL import Image
from starlette.requests import Request

from diafano import __version__
from diafano.errors import UserError
from diafano.jobs.queue.job import Job, Made, State
from diafano.jobs.queue.live import as_bytes
from diafano.pictures.infotext import parse_infotext
from diafano.pictures.metadata import with_parameters
from diafano.serve.doors.a1111 import lists
from diafano.serve.doors.a1111.asked import (
    Asked,
    AskedOver,
    Unprocessable,
    from_text,
    over_settings,
    resized,
    settings_of,
)
from diafano.serve.limits import from_base64, mask_of, picture_of
from diafano.serve.replies import refusal_reply
from diafano.serve.service import Service, in_thread, owner

PREFIX = "/sdapi/v1"
RESAMPLING = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
NOTHING = ("hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "extensions", "sd-vae", "loras")
REFRESH = ("refresh-checkpoints", "refresh-vae", "refresh-embeddings", "refresh-loras")


def router(service: Service) -> APIRouter:
    """The routes of this door."""
    routes = APIRouter(tags=["AUTOMATIC1111"])
    queue, store = service.queue, service.store
    chosen: dict[str, str] = {}
    """Owner -> the model that they have chosen by `options`."""

    def model_of(caller: str, asked: Asked) -> str:
        named = (asked.override_settings or {}).get("sd_model_checkpoint")
        return queue.shelf.find(str(named)) if named else chosen.get(caller, "embedded")

    async def draw(asked: Asked, request: Request, sent: set[str]) -> Response:
        caller = owner(request)
        image = mask = None
        try:
            asked = from_text(asked, sent)
            model = await in_thread(model_of, caller, asked)
            loaded = await in_thread(queue.shelf.get, model)
            settings, notes = settings_of(asked, loaded.size_step)
            if isinstance(asked, AskedOver):
                if not asked.init_images:
                    return refusal_reply(PREFIX, 404, "Init image not found: give one in init_images")
                image, mask = await in_thread(pictures_in, asked, tuple(settings["size"]))
                settings |= over_settings(asked, mask is not None)
            job = await service.order(
                asked.prompt,
                settings,
                owner=caller,
                door="a1111",
                model=model,
                image=image,
                mask=mask,
                id=asked.force_task_id or None,
                fit=True,
                notes=notes,
            )
        except Unprocessable as error:
            return refusal_reply(PREFIX, 422, str(error))
        ended = await service.ended(job, request)
        if ended.state is State.failed:
            return refusal_reply(PREFIX, 500, ended.error or "it could not be drawn")
        files = await service.files(ended)
        shown = [base64.b64encode(file).decode() for _, file in files] if asked.send_images else []
        echo = {**asked.model_dump(), "init_images": None, "mask": None}
        info = json.dumps(info_of(ended, [made for made, _ in files], asked))
        return JSONResponse({"images": shown, "parameters": echo, "info": info})

    def pictures_in(asked: AskedOver, size: tuple[int, int]) -> tuple[Image.Image, Image.Image | None]:
        assert asked.init_images
        image = picture_of(from_base64(asked.init_images[0], service.limits, "the init image"))
        said = asked.mask[0] if isinstance(asked.mask, list) and asked.mask else asked.mask
        mask = None
        if isinstance(said, str) and said:
            mask = mask_of(from_base64(said, service.limits, "the mask"), image.size)
            mask = resized(mask, size, asked.resize_mode)
        return resized(image, size, asked.resize_mode), mask

    @routes.post(f"{PREFIX}/txt2img", response_model=None)
    async def txt2img(asked: Asked, request: Request) -> Response:
        return await draw(asked, request, asked.model_fields_set)

    @routes.post(f"{PREFIX}/img2img", response_model=None)
    async def img2img(asked: AskedOver, request: Request) -> Response:
        return await draw(asked, request, asked.model_fields_set)

    def current(caller: str) -> Job | None:
        """The caller's job that is drawn, else the first that waits."""
        drawing = store.jobs(owner=caller, states=[State.drawing], limit=1)
        waiting = drawing or store.jobs(owner=caller, states=[State.waiting], limit=1, oldest_first=True)
        return waiting[0] if waiting else None

    @routes.get(f"{PREFIX}/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        job = await in_thread(current, owner(request))
        queue.watch()
        live = None if job is None else queue.live(job.id)
        share, left, picture = 0.0, 0.0, None
        if live is not None and live.steps:
            share = min(1.0, 0.01 + 0.99 * live.step / live.steps)
            left = live.seconds_left or 0.0
            if live.preview is not None and not skip_current_image:
                picture = base64.b64encode(await in_thread(as_bytes, live.preview, "PNG")).decode()
        state = {
            "skipped": False,
            "interrupted": live is not None and live.interrupted,
            "stopping_generation": False,
            "job": "" if job is None else job.id,
            "job_timestamp": stamp(job.created) if job is not None else "0",
            "job_count": 0 if job is None else 1,
            "job_no": 0,
            "sampling_step": 0 if live is None else live.step,
            "sampling_steps": 0 if live is None else live.steps,
        }
        return {"progress": share, "eta_relative": left, "state": state, "current_image": picture, "textinfo": None}

    async def interrupt(request: Request) -> None:
        for job in await in_thread(lambda: store.jobs(owner=owner(request), states=[State.drawing])):
            await in_thread(queue.cancel, job.id, keep=True)

    @routes.post(f"{PREFIX}/interrupt")
    async def interrupted(request: Request) -> dict[str, Any]:
        await interrupt(request)
        return {}

    @routes.post(f"{PREFIX}/skip")
    async def skipped(request: Request) -> None:
        await interrupt(request)

    @routes.get(f"{PREFIX}/options")
    async def get_options(request: Request) -> dict[str, Any]:
        return lists.options(chosen.get(owner(request), "embedded"))

    @routes.post(f"{PREFIX}/options")
    async def set_options(request: Request, said: dict[str, Any] = Body()) -> None:  # noqa: B008 (fastapi's)
        if (named := said.get("sd_model_checkpoint")) is not None:
            chosen[owner(request)] = await in_thread(queue.shelf.find, str(named))

    @routes.get(f"{PREFIX}/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        return lists.models(dict(await in_thread(queue.shelf.names)))

    for path, made in (
        ("samplers", lists.samplers),
        ("schedulers", lists.schedulers),
        ("upscalers", lists.upscalers),
        ("latent-upscale-modes", lists.latent_modes),
    ):
        routes.get(f"{PREFIX}/{path}", operation_id=path)(made)
    for path in NOTHING:
        routes.get(f"{PREFIX}/{path}", operation_id=path)(_nothing)
    for path in REFRESH:
        routes.post(f"{PREFIX}/{path}", operation_id=path)(_done)

    @routes.get(f"{PREFIX}/embeddings")
    async def embeddings() -> dict[str, Any]:
        return {"loaded": {}, "skipped": {}}

    @routes.get(f"{PREFIX}/scripts")
    async def scripts() -> dict[str, list[str]]:
        return {"txt2img": [], "img2img": []}

    @routes.get(f"{PREFIX}/script-info")
    async def script_info() -> list[Any]:
        return []

    @routes.get(f"{PREFIX}/cmd-flags")
    async def flags() -> dict[str, Any]:
        return {"api": True, "nowebui": False, "no_half": False}

    @routes.get(f"{PREFIX}/memory")
    async def memory() -> dict[str, Any]:
        return {"ram": {"error": "not told"}, "cuda": {"error": "not told"}}

    @routes.post(f"{PREFIX}/png-info")
    async def png_info(image: str = Body(embed=True)) -> dict[str, Any]:
        picture = await in_thread(from_base64, image, service.limits)
        text = picture.info.get("parameters")
        items = {name: value for name, value in picture.info.items() if isinstance(value, str)}
        if not isinstance(text, str):
            return {"info": "", "items": items, "parameters": {}}
        said = parse_infotext(text)
        return {
            "info": text,
            "items": items,
            "parameters": {"Prompt": said.prompt, "Negative prompt": said.negative, **said.settings},
        }

    @routes.post(f"{PREFIX}/extra-single-image")
    async def extra(said: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        return {"html_info": "", "image": await in_thread(enlarged, service, said, str(said.get("image", "")))}

    @routes.post(f"{PREFIX}/extra-batch-images")
    async def extras(said: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        given = said.get("imageList") or []
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise UserError("imageList is no list of pictures: give objects with data and name")
        made = [await in_thread(enlarged, service, said, str(one.get("data", ""))) for one in given[:64]]
        return {"html_info": "", "images": made}

    return routes


async def _nothing() -> list[Any]:
    """There is none, and that is a right answer."""
    return []


async def _done() -> None:
    """What is there is looked at each time anyway."""


def stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def enlarged(service: Service, said: dict[str, Any], text: str) -> str:
    """A picture made larger, as base64; its settings stay in it. Raises UserError for what is not possible."""
    picture = from_base64(text, service.limits)
    name = said.get("upscaler_1") or "None"
    if name not in ("None", *RESAMPLING):
        raise UserError(f"there is no upscaler {name!r} here: use None, {', '.join(RESAMPLING)}")
    if int(said.get("resize_mode") or 0) == 1:
        size = (int(said.get("upscaling_resize_w") or 512), int(said.get("upscaling_resize_h") or 512))
    else:
        scale = float(said.get("upscaling_resize") or 2)
        size = (round(picture.width * scale), round(picture.height * scale))
    if min(size) < 1 or size[0] * size[1] > service.limits.pixels:
        raise UserError(f"{size[0]}x{size[1]} pixels are not possible: ask for at most {service.limits.pixels}")
    made = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if name != "None":
        made = made.resize(size, RESAMPLING[name])
    if isinstance(parameters := picture.info.get("parameters"), str):
        made = with_parameters(made, parameters)
    file = io.BytesIO()
    made.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def info_of(job: Job, pictures: list[Made], asked: Asked) -> dict[str, Any]:
    """The keys of `info`, of the types that strict clients demand."""
    settings = job.order.settings
    count = max(1, len(pictures))
    seed, subseed = int(settings["seed"]), int(settings.get("variation_seed") or settings["seed"])
    varies = bool(settings.get("variation_strength"))
    width, height = job.order.enlarged or settings["size"]
    notes = {"Notes": "; ".join(job.notes)} if job.notes else {}
    return {
        "prompt": job.order.prompt,
        "all_prompts": [job.order.prompt] * count,
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * count,
        "seed": seed,
        "all_seeds": [made.seed for made in pictures] or [seed],
        "subseed": subseed,
        "all_subseeds": [subseed + at for at in range(count)],
        "subseed_strength": float(settings.get("variation_strength") or 0.0) if varies else 0,
        "width": width,
        "height": height,
        "sampler_name": asked.sampler,
        "cfg_scale": settings["guidance"],
        "steps": settings["steps"],
        "batch_size": asked.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.order.model,
        "sd_model_hash": "",
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": settings.get("strength") or settings.get("hires_strength"),
        "extra_generation_params": notes,
        "index_of_first_image": 0,
        "infotexts": [made.parameters for made in pictures],
        "styles": list(asked.styles or []),
        "job_timestamp": stamp(job.created),
        "clip_skip": settings.get("clip_skip") or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"diafano {__version__}",
    }
