"""The page, in a real browser: one click from a cold start to a picture, and what people do next."""

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diafano.serve.page import FILES
from diafano.stable_diffusion import StableDiffusion
from serve.conftest import Served

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
WAIT = 30_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, served: Served) -> Iterator[Callable[..., Any]]:
    contexts: list[Any] = []
    faults: list[str] = []
    asked: list[str] = []

    def opened(**options: Any) -> Any:
        contexts.append(browser.new_context(**{"locale": "en-GB", **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((served.url, "data:", "blob:")) else faults.append(sent.url),
        )
        page.goto(served.url)
        page.wait_for_selector("select[name=model] option", state="attached")
        page.fill("[name=steps]", "2")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
    assert [url for url in asked if not url.startswith((served.url, "data:", "blob:"))] == []  # no other host


def pictures(page: Any) -> Any:
    return page.locator("#gallery li")


def shows(locator: Any, count: int) -> None:
    playwright.expect(locator).to_have_count(count, timeout=WAIT)


def test_one_click_from_a_cold_start(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.click("#draw")
    shows(pictures(page), 1)
    image = page.locator("#gallery img")
    playwright.expect(image).to_have_attribute("alt", "a penguin on a red background")
    page.wait_for_timeout(100)
    assert image.evaluate("one => one.naturalWidth") == 64
    playwright.expect(page.locator("#state")).to_contain_text("A picture is finished")


def test_what_was_typed_is_what_is_drawn_and_stays(open_page: Callable[..., Any], served: Served) -> None:
    page = open_page()
    page.fill("[name=prompt]", "two <b>bananas</b>")
    page.locator("summary").click()
    page.fill("[name=negative]", "red")
    page.select_option("[name=sampler]", "euler")
    page.select_option("[name=size]", "128x64")
    page.fill("[name=seed]", "7")
    page.keyboard.press("Control+Enter")
    shows(pictures(page), 1)
    assert page.locator("#gallery b").count() == 0  # what people type is text
    (job,) = served.service.store.jobs()
    assert job.order.prompt == "two <b>bananas</b>"
    said = {"negative": "red", "sampler": "euler", "size": [128, 64], "seed": 7, "steps": 2, "count": 1}
    assert said.items() <= job.order.settings.items()
    page.reload()
    page.wait_for_selector("select[name=model] option", state="attached")
    playwright.expect(page.locator("[name=prompt]")).to_have_value("two <b>bananas</b>")
    playwright.expect(page.locator("[name=sampler]")).to_have_value("euler")
    shows(pictures(page), 1)


def test_a_reload_in_the_middle_of_a_job(open_page: Callable[..., Any], served: Served) -> None:
    page = open_page()
    page.fill("[name=steps]", "150")
    served.service.queue.turns.pause(True)
    page.click("#draw")
    shows(page.locator(".job"), 1)
    page.reload()
    shows(page.locator(".job"), 1)
    playwright.expect(page.locator(".job .hint")).to_have_text("waits, place 1")
    served.service.queue.turns.pause(False)
    shows(pictures(page), 1)
    shows(page.locator(".job"), 0)


def test_cancelling_one_and_finishing_another_now(open_page: Callable[..., Any], served: Served) -> None:
    served.service.limits = type(served.service.limits)(steps=1000)
    page = open_page()
    page.locator("[name=steps]").evaluate("one => { one.max = 1000; }")
    page.fill("[name=steps]", "1000")
    page.fill("[name=prompt]", "first")
    page.click("#draw")
    page.wait_for_selector(".job >> text=Finish now")
    page.fill("[name=prompt]", "second")
    page.click("#draw")
    shows(page.locator(".job"), 2)
    page.locator(".job", has_text="second").get_by_text("Cancel").click()
    shows(page.locator(".job"), 1)
    page.get_by_text("Finish now").click()
    shows(pictures(page), 1)
    states = {job.order.prompt: job.state.value for job in served.service.store.jobs()}
    assert states == {"first": "done", "second": "cancelled"}


def test_previews_are_seen(open_page: Callable[..., Any], served: Served) -> None:
    page = open_page()
    page.locator("[name=steps]").evaluate("one => { one.max = 1000; }")
    page.fill("[name=steps]", "1000")
    page.click("#draw")
    page.wait_for_selector(".job img")
    playwright.expect(page.locator(".job .hint")).to_contain_text("step ")
    page.get_by_text("Cancel").click()
    shows(page.locator(".job"), 0)


def test_a_picture_gives_its_settings_back(open_page: Callable[..., Any], tiny_model: StableDiffusion) -> None:
    page = open_page()
    file = io.BytesIO()
    (drawn,) = tiny_model.generate("an owl", seed=77, steps=3, sampler="heun", negative="blue")
    drawn.save(file, "PNG")
    page.set_input_files("#file", {"name": "owl.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.click("#take")
    for name, value in (
        ("prompt", "an owl"),
        ("seed", "77"),
        ("steps", "3"),
        ("sampler", "heun"),
        ("negative", "blue"),
    ):
        playwright.expect(page.locator(f"[name={name}]")).to_have_value(value)
    page.click("#draw")
    shows(pictures(page), 1)
    page.click("#gallery button")
    code = (
        "async () => [...new Uint8Array(await (await fetch(document.querySelector('#gallery img').src)).arrayBuffer())]"
    )
    shown = page.evaluate(code)
    assert Image.open(io.BytesIO(bytes(shown))).tobytes() == drawn.tobytes()


def test_drawing_over_a_picture_that_is_dropped(open_page: Callable[..., Any], served: Served) -> None:
    page = open_page()
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    page.evaluate(
        """data => {
            const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
            const moved = new DataTransfer();
            moved.items.add(new File([bytes], "p.png", { type: "image/png" }));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
        }""",
        data,
    )
    page.wait_for_selector("#over-settings", state="visible")
    page.locator("[name=strength]").fill("0.1")
    page.click("#draw")
    shows(pictures(page), 1)
    (job,) = served.service.store.jobs()
    assert job.order.image is not None
    assert job.order.settings["strength"] == 0.1


def test_a_mistake_is_said_where_it_was_made(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.locator("[name=size]").evaluate("one => one.add(new Option('65x65', '65x65'))")
    page.select_option("[name=size]", "65x65")
    page.click("#draw")
    playwright.expect(page.locator("#error")).to_contain_text("size 65x65 is not possible")
    playwright.expect(page.locator("[name=size]")).to_have_attribute("aria-invalid", "true")


def test_the_gallery(open_page: Callable[..., Any]) -> None:
    page = open_page()
    for prompt in ("a red fox", "a blue fox", "an owl"):
        page.fill("[name=prompt]", prompt)
        page.click("#draw")
    shows(pictures(page), 3)
    page.fill("#search", "fox BLUE")
    shows(pictures(page), 1)
    page.click("#gallery button")
    playwright.expect(page.locator("#picture-text")).to_contain_text("Steps: 2, Sampler:")
    page.click("#again")
    playwright.expect(page.locator("[name=prompt]")).to_have_value("a blue fox")
    assert page.locator("[name=seed]").input_value() != ""


def test_keyboard_alone(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.locator("[name=prompt]").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "draw"
    page.keyboard.press("Enter")
    shows(pictures(page), 1)
    page.locator("#gallery button").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#picture")).to_be_visible()
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#picture")).not_to_be_visible()


def test_italian(open_page: Callable[..., Any]) -> None:
    page = open_page(locale="it-IT")
    playwright.expect(page.locator("#draw")).to_have_text("Disegna")
    assert page.evaluate("document.documentElement.lang") == "it"
    page.select_option("#language", "en")
    playwright.expect(page.locator("#draw")).to_have_text("Draw")
    page.reload()
    playwright.expect(page.locator("#draw")).to_have_text("Draw")


def test_both_languages_say_everything(open_page: Callable[..., Any]) -> None:
    said = open_page().evaluate("async () => { const { WORDS } = await import('/words.js'); return WORDS; }")
    assert said["en"].keys() == said["it"].keys()
    assert all(said["it"].values())


def test_two_tabs_agree_and_two_browsers_do_not_mix(open_page: Callable[..., Any]) -> None:
    page = open_page()
    tab = page.context.new_page()
    tab.goto(page.url)
    page.click("#draw")
    shows(pictures(tab), 1)
    other = open_page()
    time.sleep(0.3)
    shows(pictures(other), 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_use_it(open_page: Callable[..., Any], scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844})
    page.click("#draw")
    shows(pictures(page), 1)
    page.locator("summary").click()
    found = axe.Axe().run(page)
    wrong = [one["id"] for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways


def test_only_these_files_are_given_out(served: Served) -> None:
    for name in FILES[1:]:
        assert served.http.get(f"/{name}").status_code == 200
    for path in (
        "/__init__.py",
        "/../app.py",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/index.html",
        "//etc/passwd",
        "/static/",
    ):
        assert served.http.get(path).status_code == 404
    page = Path(next(one for one in FILES if one.endswith(".html")))
    assert page.name == "index.html"
    assert served.http.head("/").status_code == 200
