"""Commands as reports on trackers of other programs describe them."""

from pathlib import Path

import pytest
from PIL import Image

from diafano.cli.main import run
from diafano.errors import UserError
from diafano.pictures.files import read_parameters, save_picture
from diafano.training.recipe import AutoencoderRecipe, read_recipe

LONG = "word " * 7000
"""Of more letters than EXIF can take, in UTF-16."""


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_settings_too_long_for_the_format_do_not_cost_the_picture(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """Comfy-Org/ComfyUI 5514, audioscavenger/save-image-extended-comfyui 43."""
    asked = tmp_path / f"long.{suffix}"
    Image.new("RGB", (8, 8)).save(tmp_path / "long.png")  # somebody else's
    options = ["--model", str(tiny_folder), "--steps", "1", "--seed", "1", "--like", "diffusers"]
    assert run(["generate", LONG, *options, "--output", str(asked)]) == 0
    out, err = capsys.readouterr()
    written = tmp_path / "long-2.png"
    assert out == f"{written}\n"
    assert f"are too long for a {'JPEG' if suffix == 'jpg' else 'WEBP'} file: '{written}' is written instead" in err
    assert (read_parameters(written) or "").startswith(LONG.strip())
    assert not asked.exists()


def test_a_sheet_too_large_for_the_format_is_written_as_png(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTOMATIC1111 11439 and 12642."""
    monkeypatch.setattr("diafano.pictures.metadata.LARGEST_EDGES", {"WEBP": 100})
    options = ["--model", str(tiny_folder), "--steps", "1", "--seed", "1", "--count", "2"]
    files = ["--output", str(tmp_path / "x.png"), "--grid", str(tmp_path / "sheet.webp")]
    assert run(["generate", "a cat", *options, *files]) == 0
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out.splitlines()
    assert (tmp_path / "sheet.png").is_file() and not (tmp_path / "sheet.webp").exists()


@pytest.mark.parametrize(("name", "width"), [("x.webp", 16_384), ("x.jpg", 65_501)])
def test_a_picture_too_large_for_the_format_is_one_sentence(tmp_path: Path, name: str, width: int) -> None:
    with pytest.raises(UserError, match=f"a picture of {width}x1 pixels is too large .*: save as PNG"):
        save_picture(Image.new("RGB", (width, 1)), tmp_path / name)
    save_picture(Image.new("RGB", (width - 1, 1)), tmp_path / name)
    save_picture(Image.new("RGB", (width, 1)), tmp_path / "x.png")


def test_a_prompt_that_begins_with_a_hyphen(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """leejet/stable-diffusion.cpp 808, drn/argus 348."""
    options = ["--model", str(tiny_folder), "--steps", "1", "--seed", "1", "--negative", "-blurry"]
    assert run(["generate", "-a cat", *options]) == 2
    advice = "diafano: there is no option -a: if a text begins so, write -- before it, behind all options\n"
    assert capsys.readouterr().err == advice
    target = tmp_path / "x.png"
    assert run(["generate", *options, "--output", str(target), "--", "-a cat"]) == 0
    assert (read_parameters(target) or "").startswith("-a cat\nNegative prompt: -blurry\n")


def test_a_recipes_paths_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """livekit/livekit-wakeword 51: no folder called "~" is made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'output = "~/runs"\n[data]\nkind = "folder"\nfolder = "~/pictures"\n[network]\nwidths = [16, 32]\n'
        "[loop]\nsteps = 1\n"
    )
    read = read_recipe(recipe, AutoencoderRecipe)
    assert (read.output, read.data.folder) == (tmp_path / "runs", tmp_path / "pictures")
