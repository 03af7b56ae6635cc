"""OpenAI's own client, unchanged, against the server."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from diafano.pictures.metadata import with_parameters
from diafano.stable_diffusion import StableDiffusion
from serve.conftest import Served

openai = pytest.importorskip("openai")


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def as_file(image: Image.Image) -> tuple[str, bytes, str]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "a.png", file.getvalue(), "image/png"


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def test_pictures_of_a_prompt(client: Any, tiny_model: StableDiffusion) -> None:
    extra = {"seed": 3, "steps": 2, "negative_prompt": "red", "cfg_scale": 3.0, "sampler": "euler"}
    reply = client.images.generate(model="gpt-image-1", prompt="a fox", n=2, size="64x128", extra_body=extra)
    drawn = tiny_model.generate(
        "a fox", seed=3, steps=2, negative="red", guidance=3.0, sampler="euler", size=(64, 128), count=2
    )
    assert (reply.size, reply.output_format, len(reply.data)) == ("64x128", "png", 2)
    for one, other in zip(reply.data, drawn, strict=True):
        assert picture(one.b64_json).tobytes() == other.tobytes()
        assert picture(one.b64_json).info["parameters"] == other.info["parameters"]
    assert [one.seed for one in reply.data] == [3, 4]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(client: Any, kind: str) -> None:
    reply = client.images.generate(prompt="a fox", output_format=kind, output_compression=50, extra_body={"steps": 1})
    shown = picture(reply.data[0].b64_json)
    assert shown.format == kind.upper()
    assert shown.info.get("parameters") or shown.getexif()


def test_addresses(client: Any, served: Served) -> None:
    reply = client.images.generate(prompt="a fox", response_format="url", extra_body={"steps": 1})
    file = httpx.get(reply.data[0].url)
    assert file.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(file.content)).size == (64, 64)


@pytest.mark.parametrize(("quality", "steps"), [("low", 10), ("hd", 30), ("auto", 4)])
def test_quality_is_steps(client: Any, quality: str, steps: int) -> None:
    reply = client.images.generate(prompt="a fox", quality=quality)
    assert reply.quality == quality
    assert f"Steps: {steps}," in picture(reply.data[0].b64_json).info["parameters"]


def test_a_mask_is_clear_where_it_is_drawn_anew(client: Any) -> None:
    image = Image.new("RGB", (64, 64), "orange")
    mask = Image.new("RGBA", (64, 64), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    extra = {"steps": 2, "strength": 1.0, "seed": 1}
    reply = client.images.edit(image=as_file(image), mask=as_file(mask), prompt="a fox", extra_body=extra)
    drawn = picture(reply.data[0].b64_json)
    assert np.asarray(drawn.crop((32, 0, 64, 64)))[..., :3].tolist() == [[[255, 165, 0]] * 32] * 64
    assert difference(drawn.crop((0, 0, 32, 64)), image.crop((0, 0, 32, 64))) > 20


def test_a_picture_without_a_mask_is_drawn_over(client: Any, tiny_model: StableDiffusion) -> None:
    image = Image.new("RGB", (64, 64), "orange")
    reply = client.images.edit(image=[as_file(image)], prompt="a fox", extra_body={"steps": 4, "seed": 1})
    alone = tiny_model.generate("a fox", image=image, strength=0.75, steps=4, seed=1)[0]
    assert picture(reply.data[0].b64_json).tobytes() == alone.tobytes()


def test_variations(client: Any, tiny_model: StableDiffusion) -> None:
    image = with_parameters(Image.new("RGB", (64, 64), "orange"), "an owl\nSteps: 4, Sampler: DDIM, Seed: 1")
    file = io.BytesIO()
    image.save(file, "PNG")
    reply = httpx.post(
        f"{str(client.base_url).rstrip('/')}/images/variations",
        files={"image": ("a.png", file.getvalue())},
        data={"n": "2", "steps": "2"},
        timeout=60,
    ).json()
    assert len(reply["data"]) == 2
    assert picture(reply["data"][0]["b64_json"]).info["parameters"].startswith("an owl\n")


def test_a_stream_of_partial_pictures(client: Any) -> None:
    events = list(
        client.images.generate(prompt="a fox", stream=True, partial_images=2, n=2, extra_body={"steps": 400, "seed": 5})
    )
    kinds = [event.type for event in events]
    assert kinds[-2:] == ["image_generation.completed"] * 2
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    assert 1 <= len(partial) <= 2
    assert [event.partial_image_index for event in partial] == [*range(len(partial))]
    assert all(picture(event.b64_json).size == (64, 64) for event in events)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["embedded", "dreams"]
    assert client.models.retrieve("dreams").id == "dreams"
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("other/one")
    reply = client.images.generate(prompt="a fox", model="dreams", extra_body={"steps": 1})
    assert reply.data


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "65x65"}, "size"),
        ({"size": "huge"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"partial_images": 4}, "partial_images"),
        ({"response_format": "xml"}, "response_format"),
        ({"model": "other"}, "model"),
        ({"steps": 0}, "steps"),
        ({"sampler": "magic"}, None),
        ({"stepz": 1}, "stepz"),
        ({"prompt": 3}, "prompt"),
    ],
)
def test_a_mistake_is_a_400_that_names_its_field(served: Served, fields: dict[str, Any], param: str | None) -> None:
    reply = served.http.post("/v1/images/generations", json={"prompt": "x", **fields})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert "\n" not in error["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'"x"', b"[" * 100_000])
def test_bodies_that_are_no_request(served: Served, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = served.http.post("/v1/images/generations", content=body, headers=headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_what_a_foreign_page_could_send_is_refused(served: Served) -> None:
    body = json.dumps({"prompt": "x"})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        reply = served.http.post("/v1/images/generations", content=body, headers={"content-type": kind})
        assert reply.status_code == 400


def test_several_pictures_are_one_too_many(client: Any) -> None:
    image = as_file(Image.new("RGB", (64, 64)))
    with pytest.raises(openai.BadRequestError, match="there are several pictures"):
        client.images.edit(image=[image, image], prompt="x")


def test_a_client_that_hangs_up_takes_its_job_along(served: Served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/v1/images/generations", json={"prompt": "x", "steps": 1000}, timeout=0.5)
    (job,) = served.http.get("/api/jobs").json()
    assert served.service.queue.wait(job["id"], 20).state == "cancelled"
