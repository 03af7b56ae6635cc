"""diafano's own interface: jobs of one's own, their events, pictures, and the gate before all doors."""

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from diafano.serve.callers import Credentials
from diafano.serve.limits import Limits
from diafano.stable_diffusion import StableDiffusion
from serve.conftest import Served


def submit(served: Served, **asked: Any) -> dict[str, Any]:
    settings = {"steps": 2, **asked.pop("settings", {})}
    reply = served.http.post("/api/jobs", json={"prompt": "a fox", "settings": settings, **asked})
    assert reply.status_code == 202, reply.text
    found: dict[str, Any] = reply.json()
    return found


def ended(served: Served, id: str) -> dict[str, Any]:
    served.service.queue.wait(id, 60)
    found: dict[str, Any] = served.http.get(f"/api/jobs/{id}").json()
    return found


def test_a_job_and_its_pictures(served: Served, tiny_model: StableDiffusion) -> None:
    job = submit(served, settings={"seed": 4, "count": 2})
    assert job["state"] in ("waiting", "drawing")
    job = ended(served, job["id"])
    assert (job["state"], job["error"], len(job["pictures"])) == ("done", None, 2)
    drawn = tiny_model.generate("a fox", seed=4, count=2, steps=2)
    for one, other in zip(job["pictures"], drawn, strict=True):
        file = served.http.get(one["url"])
        assert file.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(file.content)).tobytes() == other.tobytes()
    assert [one["place"] for one in served.http.get("/api/pictures", params={"words": "fox"}).json()] == [1, 0]
    assert served.http.get("/api/pictures", params={"words": "owl"}).json() == []
    assert [one["id"] for one in served.http.get("/api/jobs?state=done").json()] == [job["id"]]


def test_drawing_over_a_picture(served: Served) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(file, "PNG")
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    job = ended(served, submit(served, image=image, settings={"strength": 0.0, "seed": 1})["id"])
    assert job["state"] == "done"


def test_cancelling_retrying_and_the_front(served: Served) -> None:
    served.service.queue.turns.pause(True)
    first, second = (submit(served)["id"] for _ in range(2))
    assert served.http.get(f"/api/jobs/{second}").json()["position"] == 1
    assert served.http.post(f"/api/jobs/{second}/front").status_code == 200
    assert served.http.get(f"/api/jobs/{second}").json()["position"] == 0
    assert served.http.delete(f"/api/jobs/{first}").json()["state"] == "cancelled"
    assert served.http.delete(f"/api/jobs/{first}").json()["state"] == "cancelled"
    again = served.http.post(f"/api/jobs/{first}/retry").json()
    assert again["settings"]["seed"] == served.http.get(f"/api/jobs/{first}").json()["settings"]["seed"]
    served.service.queue.turns.pause(False)
    assert ended(served, again["id"])["state"] == ended(served, second)["state"] == "done"
    assert served.http.post("/api/jobs/nothing/retry").status_code == 404


def test_events(served: Served) -> None:
    with httpx.stream("GET", f"{served.url}/api/events", timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 1000"
        job = submit(served, settings={"steps": 3})
        kinds: list[str] = []
        for line in lines:
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                assert data["id"] == job["id"]
                if data["state"] == "done":
                    break
        assert kinds[0] == "state" and "step" in kinds


def test_previews(served: Served) -> None:
    job = submit(served, settings={"steps": 800})
    begun = time.monotonic()
    while (reply := served.http.get(f"/api/jobs/{job['id']}/preview")).status_code == 204:
        assert time.monotonic() - begun < 30
        time.sleep(0.05)
    assert Image.open(io.BytesIO(reply.content)).size == (64, 64)
    assert served.http.delete(f"/api/jobs/{job['id']}?keep=true").status_code == 200
    job = ended(served, job["id"])
    assert job["state"] == "done" and len(job["pictures"]) == 1
    assert any("it was ended after" in note for note in job["notes"])


def test_what_can_be_asked_for(served: Served) -> None:
    assert [one["name"] for one in served.http.get("/api/models").json()] == ["embedded", "dreams"]
    names = {one["name"] for one in served.http.get("/api/settings").json()}
    assert {"steps", "sampler", "hires"} <= names
    assert served.http.get("/openapi.json").json()["info"]["title"] == "diafano"
    assert served.http.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"prompt": "x", "settings": {"steps": 0}}, 400, "steps 0 is not possible"),
        ({"prompt": "x", "settings": {"steps": 2000}}, 400, "steps 2000"),
        ({"prompt": "x" * 40_000}, 400, "40000 characters"),
        ({"prompt": "x", "settings": {"size": "2048x2048", "count": 9}}, 400, "too much for one job"),
        ({"prompt": "x", "model": "../../etc/passwd"}, 400, "there is no model"),
        ({"prompt": "x", "image": "http://127.0.0.1/x.png"}, 400, "is an address"),
        ({"prompt": "x", "image": "/etc/passwd"}, 400, "is no"),
        ({"prompt": "x", "image": "aGVsbG8="}, 400, "is no picture"),
        ({"prompt": "x", "stepz": 3}, 422, "stepz"),
        ({}, 422, "prompt"),
    ],
)
def test_mistakes_are_sentences(served: Served, asked: dict[str, Any], status: int, said: str) -> None:
    reply = served.http.post("/api/jobs", json=asked)
    assert reply.status_code == status
    assert said in reply.json()["error"]
    assert served.http.get("/api/jobs").json() == []


def test_a_bomb_is_not_unpacked(serve: Callable[..., Served]) -> None:
    served = serve(limits=Limits(pixels=1000))
    file = io.BytesIO()
    Image.new("1", (3000, 3000)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    reply = served.http.post("/api/jobs", json={"prompt": "x", "image": image})
    assert (reply.status_code, "3000x3000 pixels" in reply.json()["error"]) == (400, True)


def test_owners_see_their_own(serve: Callable[..., Served]) -> None:
    served = serve(credentials=Credentials({"ada": "key of ada", "bob": "key of bob"}))
    ada, bob = (
        {"authorization": "Bearer key of ada"},
        {"authorization": "Basic " + base64.b64encode(b"bob:key of bob").decode()},
    )
    asked = {"prompt": "a fox", "settings": {"steps": 1}}
    job = served.http.post("/api/jobs", json=asked, headers=ada).json()
    served.service.queue.wait(job["id"], 60)
    assert served.http.get(job["url"], headers=ada).status_code == 200
    assert served.http.get(job["url"], headers=bob).status_code == 404
    assert served.http.delete(job["url"], headers=bob).status_code == 404
    assert served.http.get(f"{job['url']}/pictures/0", headers=bob).status_code == 404
    assert served.http.get("/api/jobs", headers=bob).json() == []
    assert served.http.get("/api/pictures", headers=bob).json() == []


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", "Basic", "Basic !!!", "Basic YWRhOndyb25n", "Basic bm9ib2R5Og==", "x"],
)
def test_without_a_key_nothing_is_told(serve: Callable[..., Served], authorization: str) -> None:
    served = serve(credentials=Credentials({"ada": "key of ada"}))
    headers = {"authorization": authorization}
    for path, scheme in (
        ("/api/jobs", "Basic"),
        ("/v1/models", "Bearer"),
        ("/openapi.json", "Basic"),
        ("/nothing", "Basic"),
    ):
        reply = served.http.get(path, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"].startswith(scheme)
    assert served.http.get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil:80", "[::2]"])
def test_other_names_are_refused(served: Served, host: str) -> None:
    """A page that has its own name point here (DNS rebinding) would be of the same origin."""
    assert served.http.get("/api/jobs", headers={"host": host}).status_code == 400
    assert served.http.get("/api/jobs", headers={"host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_pages_of_others_may_not_ask(served: Served, headers: dict[str, str]) -> None:
    assert served.http.post("/api/jobs", json={"prompt": "x"}, headers=headers).status_code == 403
    own = {"origin": served.url}
    assert served.http.post("/api/jobs", json={"prompt": "x", "settings": {"steps": 1}}, headers=own).status_code == 202


def test_too_large_and_too_many(serve: Callable[..., Served]) -> None:
    served = serve(limits=Limits(body=2**20))
    big = {"prompt": "x" * 2**20}
    assert served.http.post("/api/jobs", json=big).status_code == 413
    assert served.http.post("/v1/images/generations", json=big).json()["error"]["code"] == "request_too_large"
    served.service.queue.turns.most_of_one = 2
    served.service.queue.turns.pause(True)
    for _ in range(2):
        submit(served)
    reply = served.http.post("/v1/images/generations", json={"prompt": "x"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")


def test_every_reply_forbids_what_pages_do_not_need(served: Served) -> None:
    for path in ("/api/jobs", "/nothing", "/healthz"):
        headers = served.http.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
