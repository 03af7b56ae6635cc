"""AUTOMATIC1111's interface, by one of its clients, unchanged, and by what others rely on."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diafano.stable_diffusion import StableDiffusion
from serve.conftest import Served

webuiapi = pytest.importorskip("webuiapi")

INFO = """
prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds subseed_strength width
height sampler_name cfg_scale steps batch_size restore_faces face_restoration_model sd_model_name sd_model_hash
sd_vae_name sd_vae_hash seed_resize_from_w seed_resize_from_h denoising_strength extra_generation_params
index_of_first_image infotexts styles job_timestamp clip_skip is_using_inpainting_conditioning version"""
PROGRESS = {"skipped", "interrupted", "stopping_generation", "job", "job_timestamp", "job_count", "job_no"}


@pytest.fixture
def api(served: Served) -> Iterator[Any]:
    port = served.url.rpartition(":")[2]
    made = webuiapi.WebUIApi(host="127.0.0.1", port=int(port))
    yield made
    made.session.close()


def pixels(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def text(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_txt2img(api: Any, tiny_model: StableDiffusion) -> None:
    result = api.txt2img(
        prompt="a (fox:1.2)",
        negative_prompt="red",
        seed=7,
        steps=4,
        cfg_scale=5,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        width=64,
        height=128,
        batch_size=2,
    )
    drawn = tiny_model.generate(
        "a (fox:1.2)",
        negative="red",
        seed=7,
        steps=4,
        guidance=5.0,
        sampler="dpmpp_2m",
        schedule="karras",
        size=(64, 128),
        count=2,
        like="a1111",
    )
    assert [pixels(one) for one in result.images] == [pixels(one) for one in drawn]
    assert set(result.info) == set(INFO.split())
    assert (result.info["seed"], result.info["all_seeds"]) == (7, [7, 8])
    assert result.info["infotexts"][0] == drawn[0].info["parameters"]
    assert result.parameters["steps"] == 4


def test_a_fused_name_and_a_second_pass(api: Any, tiny_model: StableDiffusion) -> None:
    result = api.txt2img(
        prompt="a fox",
        seed=1,
        steps=3,
        width=64,
        height=64,
        sampler_name="DPM++ 2M Karras",
        enable_hr=True,
        hr_scale=2,
        denoising_strength=0.6,
        hr_second_pass_steps=2,
    )
    drawn = tiny_model.generate(
        "a fox",
        seed=1,
        steps=3,
        guidance=7.0,
        sampler="dpmpp_2m",
        schedule="karras",
        like="a1111",
        hires=2.0,
        hires_strength=0.6,
        hires_steps=2,
        hires_upscaler="Latent",
    )
    assert result.image.size == (128, 128)
    assert pixels(result.image) == pixels(drawn[0])


def test_what_is_larger_than_the_embedded_model_knows_is_enlarged(api: Any) -> None:
    result = api.txt2img(prompt="a fox", steps=2, seed=1)  # 512x512, as that client says when nobody says otherwise
    assert result.image.size == (512, 512)
    assert "drawn at 64x64" in result.info["extra_generation_params"]["Notes"]
    wide = api.txt2img(prompt="a fox", steps=2, seed=1, width=1024, height=512)
    assert wide.image.size == (1024, 512)
    assert api.txt2img(prompt="a fox", steps=2, seed=1, width=128, height=128).info["extra_generation_params"] == {}


def test_img2img_and_inpainting(api: Any, tiny_model: StableDiffusion) -> None:
    image = Image.new("RGB", (64, 64), "orange")
    result = api.img2img(
        images=[image], prompt="a fox", steps=4, seed=2, denoising_strength=0.5, width=64, height=64, cfg_scale=7
    )
    settings: dict[str, Any] = {"seed": 2, "steps": 4, "sampler": "euler_ancestral", "like": "a1111", "guidance": 7.0}
    drawn = tiny_model.generate("a fox", image=image, strength=0.5, eta=1.0, **settings)
    assert pixels(result.image) == pixels(drawn[0])
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    result = api.img2img(
        images=[image],
        mask_image=mask,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        prompt="a fox",
        steps=4,
        seed=2,
        denoising_strength=1.0,
        width=64,
        height=64,
    )
    kept = np.asarray(result.image.convert("RGB"))[:, 34:]
    assert (kept == (255, 165, 0)).all()


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_resize_modes(served: Served, mode: int) -> None:
    image = Image.new("RGB", (128, 64), "orange")
    asked = {"init_images": [text(image)], "prompt": "x", "steps": 2, "width": 64, "height": 64, "resize_mode": mode}
    reply = served.http.post("/sdapi/v1/img2img", json={**asked, "denoising_strength": 0.1}).json()
    assert Image.open(io.BytesIO(base64.b64decode(reply["images"][0]))).size == (64, 64)


def test_lists(api: Any) -> None:
    assert {"DPM++ 2M", "Euler a", "UniPC"} <= {one["name"] for one in api.get_samplers()}
    assert all(isinstance(value, str) for one in api.get_samplers() for value in one["options"].values())
    assert api.get_schedulers()[0]["name"] == "automatic"
    assert [one["name"] for one in api.get_upscalers()][:3] == ["None", "Lanczos", "Nearest"]
    assert all(isinstance(one["scale"], int) for one in api.get_upscalers())
    assert api.get_latent_upscale_modes()[0] == {"name": "Latent"}
    assert [one["title"] for one in api.get_sd_models()] == ["embedded", "dreams"]
    for listed in (api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles):
        assert listed() == []
    assert api.get_sd_vae() == api.get_loras() == []
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert set(api.get_memory()) == {"ram", "cuda"}
    assert "auth" not in json.dumps(api.get_cmd_flags())
    api.refresh_checkpoints()


def test_choosing_a_model(api: Any, served: Served) -> None:
    assert api.util_get_current_model() == "embedded"
    api.util_set_model("dreams")
    assert api.util_get_current_model() == "dreams"
    assert api.txt2img(prompt="x", steps=1, width=64, height=64).info["sd_model_name"] == "dreams"
    whole = {**api.get_options(), "sd_model_checkpoint": "embedded", "something_new": 1}
    api.set_options(whole)  # some clients post it back whole
    overriding = api.txt2img(
        prompt="x", steps=1, width=64, height=64, override_settings={"sd_model_checkpoint": "dreams"}
    )
    assert overriding.info["sd_model_name"] == "dreams"
    assert api.util_get_current_model() == "embedded"
    assert served.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "../x"}).status_code == 400


def test_progress_and_interrupting(api: Any, served: Served) -> None:
    idle = api.get_progress()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0.0, 0, None)
    results: list[Any] = []
    asking = threading.Thread(
        target=lambda: results.append(api.txt2img(prompt="a fox", steps=1000, width=64, height=64, seed=1))
    )
    asking.start()
    seen: list[float] = []
    begun = time.monotonic()
    other = served.http
    while True:
        assert time.monotonic() - begun < 60
        now = other.get("/sdapi/v1/progress").json()
        seen.append(now["progress"])
        assert set(now["state"]) == PROGRESS | {"sampling_step", "sampling_steps"}
        if now["state"]["sampling_step"] > 5 and now["current_image"]:
            break
        time.sleep(0.02)
    assert seen == sorted(seen)
    assert Image.open(io.BytesIO(base64.b64decode(now["current_image"]))).size == (64, 64)
    assert other.post("/sdapi/v1/interrupt").json() == {}
    asking.join(60)
    assert len(results[0].images) == 1  # what was drawn so far, and no error
    assert other.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
    assert other.post("/sdapi/v1/skip").text == "null"


def test_png_info_and_extras(api: Any) -> None:
    drawn = api.txt2img(prompt="a fox", steps=1, width=64, height=64, seed=3)
    found = api.png_info(drawn.image)
    assert found.info.startswith("a fox\n")
    assert found.parameters["Seed"] == "3"
    assert api.png_info(Image.new("RGB", (8, 8))).info == ""
    larger = api.extra_single_image(image=drawn.image, upscaler_1="Lanczos", upscaling_resize=3)
    assert larger.image.size == (192, 192)
    several = api.extra_batch_images(images=[drawn.image, drawn.image], upscaler_1="Nearest", upscaling_resize=2)
    assert [one.size for one in several.images] == [(128, 128)] * 2


def test_an_infotext_fills_what_was_not_sent(served: Served, tiny_model: StableDiffusion) -> None:
    said = tiny_model.generate("an owl", seed=9, steps=3, sampler="ddim", like="a1111")[0].info["parameters"]
    reply = served.http.post("/sdapi/v1/txt2img", json={"infotext": said, "steps": 2}).json()
    info = json.loads(reply["info"])
    assert (info["prompt"], info["seed"], info["steps"], info["width"]) == ("an owl", 9, 2, 64)


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"sampler_name": "magic"}, 400, "magic"),
        ({"scheduler": "magic"}, 400, "magic"),
        ({"steps": 0}, 400, "steps"),
        ({"script_name": "x/y/z plot"}, 422, "there is no script"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, 422, "ADetailer"),
        ({"override_settings": {"sd_model_checkpoint": "nothing"}}, 400, "there is no model"),
        ({"steps": "many"}, 422, "steps"),
    ],
)
def test_mistakes(served: Served, asked: dict[str, Any], status: int, said: str) -> None:
    reply = served.http.post("/sdapi/v1/txt2img", json={"prompt": "x", "width": 64, "height": 64, "steps": 1, **asked})
    assert reply.status_code == status
    assert set(reply.json()) == {"error", "detail", "body", "errors"}
    assert said in reply.json()["detail"]


def test_leftovers_of_clients_do_not_hurt(served: Served) -> None:
    asked = {
        "prompt": "x",
        "width": 64,
        "height": 67,
        "steps": 1,
        "seed": "",
        "url": "http://x",
        "auth": "",
        "distilled_cfg_scale": 3,
        "styles": ["one"],
        "restore_faces": "true",
        "alwayson_scripts": {"ControlNet": {"args": [{"enabled": False}]}},
        "override_settings": {"nonsense": 1},
        "send_images": False,
    }
    reply = served.http.post("/sdapi/v1/txt2img", json=asked)
    assert reply.status_code == 200, reply.text
    notes = json.loads(reply.json()["info"])["extra_generation_params"]["Notes"]
    assert all(part in notes for part in ("restore_faces", "styles here: one", "nonsense"))
    assert reply.json()["images"] == []
    assert json.loads(reply.json()["info"])["height"] == 64


def test_no_init_image(served: Served) -> None:
    assert served.http.post("/sdapi/v1/img2img", json={"prompt": "x"}).status_code == 404
    bad = {"prompt": "x", "init_images": ["http://127.0.0.1/x.png"]}
    assert served.http.post("/sdapi/v1/img2img", json=bad).status_code == 400


def test_tasks_have_their_own_names(served: Served) -> None:
    asked = {"prompt": "x", "steps": 1, "width": 64, "height": 64, "force_task_id": "task(txt2img-1)"}
    assert served.http.post("/sdapi/v1/txt2img", json=asked).status_code == 200
    assert served.service.store.job("task(txt2img-1)") is not None


def test_what_others_draw_is_not_ones_own(serve: Callable[..., Served]) -> None:
    served = serve()
    served.service.queue.turns.pause(True)
    served.http.post("/api/jobs", json={"prompt": "x"}, headers={"cookie": "diafano=0123456789abcdef0123"})
    assert served.http.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
