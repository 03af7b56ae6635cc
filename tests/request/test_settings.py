"""The table of settings: all that is made of it is made of every row, and is current."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.request.recorded import FIRST, from_infotext
from diafano.request.request import Request, Settings
from diafano.request.rows import Group, Row, rows_of, setting
from diafano.request.settings import SETTINGS, Hires, ImageToImage, SamplerOptions
from diafano.sampling.samplers.table import SAMPLERS
from diafano.stable_diffusion import StableDiffusion

DOCS = Path(__file__).parents[2] / "docs/scripts"
sys.path.insert(0, str(DOCS))

import settings as script  # noqa: E402

# Fields of A1111's txt2img and img2img.
A1111 = {
    *("negative_prompt", "seed", "subseed", "subseed_strength", "sampler_name", "scheduler", "batch_size", "n_iter"),
    *("steps", "cfg_scale", "width", "height", "tiling", "eta", "s_churn", "s_tmax", "s_tmin", "s_noise"),
    *("enable_hr", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y"),
    *("denoising_strength", "mask_blur", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding"),
    "inpainting_mask_invert",
}


def test_the_table_needs_nothing_heavy() -> None:
    code = "import sys, diafano.request.settings\nprint(*{'torch', 'numpy', 'PIL', 'typer'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_what_is_written_from_the_table_is_current() -> None:
    hint = "run .venv/bin/python docs/scripts/settings.py"
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), hint
    assert script.KEYWORDS.read_text(encoding="utf-8") == script.keywords(), hint


def test_a_request_has_every_row_and_no_other_field() -> None:
    assert list(SETTINGS) == list(Settings.__annotations__)
    assert {*SETTINGS, "prompt"} - {"fast"} == set(Request.model_fields)


@pytest.mark.parametrize("row", SETTINGS.values(), ids=SETTINGS)
def test_a_row_is_an_option_of_the_command(row: Row) -> None:
    command = typer.main.get_command(cli.app).commands["generate"]  # type: ignore[attr-defined]
    options = {one.name: one for one in command.params}
    assert (row.name in options) == row.setting.option
    if row.setting.option:
        option = options[row.name]
        assert (option.help, option.metavar) == (row.setting.help, row.setting.metavar)
        assert option.rich_help_panel == row.group.title
        assert f"--{row.name.replace('_', '-')}" in option.opts
        assert option.default is None


def test_help_is_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", "--help-all"]) == 0
    text = capsys.readouterr().out
    titles = list(dict.fromkeys(row.group.title for row in SETTINGS.values()))
    places = [text.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    over = text[text.index(f"\n{ImageToImage.title}:\n") :]
    assert over.index("--image ") < over.index("--mask ") < over.index("--strength ")


def test_names_of_the_api_are_a1111s() -> None:
    named = {api for row in SETTINGS.values() for api in row.setting.api}
    assert {api for api in named if not api.startswith("override_settings.")} <= A1111
    assert named >= A1111


def test_no_two_settings_have_one_key_but_the_two_strengths() -> None:
    owners: dict[str, list[str]] = {}
    for row in SETTINGS.values():
        for text in row.setting.texts:
            owners.setdefault(text.key, []).append(row.name)
    assert {key: names for key, names in owners.items() if len(names) > 1} == {
        "Denoising strength": ["strength", "hires_strength"]
    }
    assert set(FIRST) - owners.keys() == {"Model", "VAE hash", "VAE"}


def test_an_experiments_columns_stay_in_their_order() -> None:
    names = list(Request.model_fields)
    assert names[:3] == ["guidance", "guidance_interval", "guidance_rescale"]
    start = names.index("prompt")
    assert names[start : start + 8] == [
        *("prompt", "negative", "steps", "sampler", "schedule", "seed", "size", "count"),
    ]


def test_groups_say_for_which_pictures_they_are() -> None:
    assert (ImageToImage.picture, Hires.picture, SamplerOptions.picture) == (True, False, None)


def test_samplers_take_the_options_that_are_settings() -> None:
    assert {option for sampler in SAMPLERS.values() for option in sampler.options} == set(SamplerOptions.model_fields)


def test_a_new_setting_is_one_row() -> None:
    """What a server would answer with, what a text says and what is read, from a row that nothing else knows."""

    class More(Group):
        title = "More"
        grain: int = setting("How coarse.", "N", default=0, text="Grain", api="grain")

    (row,) = rows_of([More]).values()
    assert (row.name, row.typed, row.types, row.setting.api) == ("grain", int, (int,), ("grain",))
    assert row.read(row.setting.texts[0], "3") == 3
    assert More.model_json_schema()["properties"]["grain"]["description"] == "How coarse."


# ---- the limits of churn, as an example


def test_limits_of_churn_are_recorded_and_act(tiny_model: StableDiffusion) -> None:
    said: dict[str, Any] = {"sampler": "heun", "steps": 3, "seed": 5, "s_churn": 2.0}
    (free,) = tiny_model.generate("a fox", **said)
    (held,) = tiny_model.generate("a fox", **said, s_tmin=0.5, s_tmax=2.5)
    assert "Sigma churn: 2, Sigma tmin: 0.5, Sigma tmax: 2.5" in held.info["parameters"]
    assert held.tobytes() != free.tobytes()
    assert tiny_model.generate("a fox", **said, s_tmin=0, s_tmax=1e6)[0].tobytes() == free.tobytes()
    recorded = from_infotext(held.info["parameters"])
    assert tiny_model.generate(recorded.prompt, **recorded.settings)[0].tobytes() == held.tobytes()


@pytest.mark.parametrize(("said", "read"), [("2.5", 2.5), ("0", None), ("inf", None)])
def test_others_write_no_limit_of_churn_as_a_number(said: str, read: float | None) -> None:
    text = f"a fox\nSteps: 3, Sampler: Euler, CFG scale: 6.5, Seed: 11, Sigma churn: 3, Sigma tmax: {said}"
    assert from_infotext(text).settings["s_tmax"] == read
    assert from_infotext(text).ignored == ()


def test_impossible_limits_of_churn_are_one_sentence(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match=r"s_tmin -1.* is not possible: give a number from 0 on"):
        tiny_model.request("a fox", sampler="euler", s_tmin=-1.0)
    with pytest.raises(
        UserError, match=r"the sampler ddim has no s_tmax, but 1\.0 was given: leave it out, or use euler"
    ):
        tiny_model.request("a fox", sampler="ddim", s_tmax=1.0)
    with pytest.raises(UserError, match=r"s_tmin 2\.0 is not below s_tmax 1\.0"):
        tiny_model.generate("a fox", sampler="euler", s_churn=1.0, s_tmin=2.0, s_tmax=1.0)
