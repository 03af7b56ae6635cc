"""`diafano objects`, and what `generate` says of words that the embedded model has never seen."""

import warnings
from pathlib import Path

import pytest

import diafano
from diafano.cli.main import run
from diafano.stable_diffusion import StableDiffusion


@pytest.fixture
def of_scenes(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> StableDiffusion:
    """A model whose card says that it knows two objects, in two languages."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    said = {"objects": ("cat", "bicycle"), "languages": ("en", "it")}
    model = StableDiffusion(**{**vars(tiny_model), "card": tiny_model.card.model_copy(update=said)})
    monkeypatch.setattr(diafano, "load", lambda source=None, **options: model)
    return model


@pytest.mark.usefixtures("of_scenes")
def test_objects_are_listed_with_their_nouns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["objects"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["cat; gatto, gattino", "bicycle, bike; bicicletta, bici", ""]
    assert lines[3].startswith("2 things, each in its own look or red, ")


def test_a_model_of_anything_else_has_no_list(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diafano, "load", lambda source=None, **options: tiny_model)
    assert run(["objects"]) == 2
    assert "does not say what it was trained to draw" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("model", "told"), [(None, True), ("folder", False)])
@pytest.mark.usefixtures("of_scenes")
def test_the_embedded_model_says_what_it_has_never_seen(
    model: str | None, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if model is None else ["--model", model]
    assert run(["generate", "a zebra on a bike", "--steps", "1", "--output", str(tmp_path / "a.png"), *options]) == 0
    said = capsys.readouterr().err
    note = (
        "diafano: note: the embedded model has never seen 'zebra' (nearest: cat); it knows 2 things: `diafano objects`"
    )
    assert (note in said) is told
    assert (tmp_path / "a.png").exists()
    assert run(["generate", "two bici", "--steps", "1", "--output", str(tmp_path / "b.png"), *options]) == 0
    assert "never seen" not in capsys.readouterr().err
