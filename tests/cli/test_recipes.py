"""What README.md and docs/training.md tell people to type, typed: recipes, three stages, a picture."""

import re
from pathlib import Path

import pytest

import pages
from diafano.cli import main as cli
from diafano.pictures.files import read_picture

README = pages.DOCS.parent / "README.md"
TRAINING = pages.DOCS / "training.md"


def commands(page: Path) -> list[list[str]]:
    """Those that train on one's own pictures, in their order."""
    return [
        words[1:]
        for block in pages.blocks_of(page)
        if "diafano train" in block.text or "diafano scenes my_pictures" in block.text
        for words in pages.commands_of(block)
        if words[0] == "diafano"
    ]


def shorten(path: Path) -> None:
    """Two steps of a few examples, and small networks: all else is as the command wrote it."""
    text = re.sub(r"(?m)^steps = \d+(?=  #|\nbatch)", "steps = 2", path.read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^batch = \d+", "batch = 2", text)
    path.write_text(text + "tensorboard = false\n", encoding="utf-8")


@pytest.mark.parametrize("page", [README, TRAINING], ids=lambda page: page.stem)
def test_the_page_is_followed_to_the_letter(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = commands(page)
    assert [words[:2] for words in typed if words[0] == "train"][:3] == [
        *(["train", "autoencoder"], ["train", "text"], ["train", "unet"]),
    ]
    if page == README:
        assert cli.run(["scenes", "my_pictures", "--count", "8", "--size", "64", "--shipped"]) == 0
    for words in typed:
        if words[0] == "scenes":
            words[words.index("--count") + 1] = "8"
        if words[0] == "generate":
            words += ["--steps", "2", "--output", "drawn.png"]
        assert cli.run([*words, *(["--device", "cpu"] if words[0] == "train" else [])]) == 0, words
        error = capsys.readouterr().err
        if words[0] == "recipes":
            assert "diafano generate" in error  # what to do next
            for path in (tmp_path / words[1]).glob("*.toml"):
                shorten(path)
    assert read_picture("drawn.png").size == (64, 64)


def test_stages_out_of_order_say_which_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run(["scenes", "my_pictures", "--count", "4", "--size", "64", "--shipped"])
    cli.run(["recipes", "mine", "--pictures", "my_pictures", "--size", "64"])
    capsys.readouterr()
    assert cli.run(["train", "unet", "--config", "mine/unet.toml"]) == 2
    assert "first carry out `diafano train autoencoder`" in capsys.readouterr().err
    (tmp_path / "runs" / "mine" / "autoencoder").mkdir(parents=True)  # begun, and stopped
    assert cli.run(["train", "unet", "--config", "mine/unet.toml"]) == 2
    assert "`diafano train autoencoder` is not through" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["autoencoder", "unet"])
def test_a_size_that_the_networks_cannot_take(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run(["scenes", "p", "--count", "4", "--size", "64", "--shipped"])
    written = {"autoencoder": ["mine", "--pictures", "p"], "unet": ["mine", "--pictures", "p", "--start", "embedded"]}
    assert cli.run(["recipes", *written[stage]]) == 0
    path = tmp_path / "mine" / f"{stage}.toml"
    path.write_text(re.sub(r"(?m)^size = \d+$", "size = 63", path.read_text()))
    capsys.readouterr()
    assert cli.run(["train", stage, "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert "data.size 63 is not a multiple of" in error
    assert len(error.strip().splitlines()) == 1
