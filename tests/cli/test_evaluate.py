"""What `diafano evaluate` prints and writes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import diafano
from diafano.cli.evaluate import run
from diafano.errors import UserError
from diafano.evaluation.accuracy import accuracy_of
from diafano.stable_diffusion import StableDiffusion

ARGUMENTS: dict[str, Any] = {
    "source": None,
    "prompts": 3,
    "settings": {"steps": 1, "guidance": 1.0, "sampler": None},
    "seed": 5,
    "language": "en",
    "as_json": False,
    "grid": None,
    "loading": {"device": "auto", "dtype": "auto"},
}


@pytest.fixture
def untrained(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diafano, "load", lambda source, **options: tiny_model)
    monkeypatch.setattr(
        "diafano.evaluation.scoring.accuracy_of", lambda judge, sprites, scenes: accuracy_of(judge, sprites, scenes=2)
    )


@pytest.mark.usefixtures("untrained")
def test_json_alone_goes_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(**{**ARGUMENTS, "as_json": True, "grid": tmp_path / "grid.png"})
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["overall", "frechet", "exchanged_names", "tasks", "judge", "prompts"]
    assert [one["seed"] for one in content["prompts"]] == [5, 6, 7]
    assert not any(one["passed"] for one in content["prompts"])  # random weights draw nothing
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 128


@pytest.mark.usefixtures("untrained")
def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    run(**ARGUMENTS)
    *_, overall, frechet, exchanged = capsys.readouterr().out.splitlines()
    assert overall.startswith("overall") and frechet.startswith("Fréchet distance")
    assert re.fullmatch(
        r"names exchanged: the prediction changes by (\d\.\d\d at \d+(, )?){4} \(error x .*\)", exchanged
    )


@pytest.mark.usefixtures("untrained")
def test_prompts_can_be_italian(capsys: pytest.CaptureFixture[str]) -> None:
    run(**{**ARGUMENTS, "as_json": True, "language": "it"})
    prompts = [one["prompt"] for one in json.loads(capsys.readouterr().out)["prompts"]]
    assert all(" su sfondo " in prompt for prompt in prompts)


def test_a_sheet_that_cannot_be_written_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diafano, "load", lambda *_, **__: pytest.fail("the model was loaded first"))
    with pytest.raises(UserError, match="absent"):
        run(**{**ARGUMENTS, "grid": tmp_path / "absent" / "grid.png"})


def test_impossible_numbers_of_prompts_are_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diafano, "load", lambda *_, **__: pytest.fail("the model was loaded first"))
    with pytest.raises(UserError, match="0 prompts"):
        run(**{**ARGUMENTS, "prompts": 0})
