"""What the README and the pages in docs tell people to type is there, runs, and drew the pictures that they show."""

import copy
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer.main
from safetensors.torch import save_file

import diafano
import draw
import pages
from diafano.checkpoints.vae import with_autoencoder
from diafano.cli.main import app
from diafano.networks.controlnet import ControlNet
from diafano.pictures.files import read_parameters
from diafano.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[1]

README = ROOT / "README.md"
PAGES = [README, *pages.pages()]
COMMANDS = [
    pytest.param(words, id=f"{page.name}-{number}")
    for page in PAGES
    for number, words in enumerate(
        words
        for block in pages.blocks_of(page)
        if block.language in ("sh", "bash", "console")
        for words in pages.commands_of(block)
    )
]
MOST_BYTES = 3 * 2**20
"""Of all pictures that the pages' commands draw: they are fetched with every clone."""


def test_the_first_command_of_the_readme_needs_nothing_but_make() -> None:
    first = next(words for block in pages.blocks_of(README) for words in pages.commands_of(block))
    assert first[:2] == ["make", "image"]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(words: list[str]) -> None:
    """The real command line takes them: names, options, and as many arguments as there have to be."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert words[1] in targets
    elif words[0].startswith(".venv/bin/") and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    elif words[0] == "diafano" and not words[1].startswith("-"):
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        assert words[1] in commands
        commands[words[1]].make_context(words[1], list(words[2:]))


def test_a_command_that_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "x.md"
    page.write_text('```sh\n.venv/bin/diafano generate "a # b" \\\n  --stepz 3  # comment\n```\n', encoding="utf-8")
    (words,) = pages.commands_of(pages.blocks_of(page)[0])
    assert words == ["diafano", "generate", "a # b", "--stepz", "3"]
    with pytest.raises(Exception, match="stepz"):
        test_commands_are_understood(words)


class Quick:
    """`diafano` whose embedded model is loaded once and draws in two steps unless it is told otherwise."""

    def __init__(self) -> None:
        self.model: StableDiffusion | None = None

    def load(self, source: object = None, **options: Any) -> StableDiffusion:
        if source is not None or options:
            return diafano.load(source, **options)  # type: ignore[arg-type]
        if self.model is None:
            self.model = diafano.load()
            self.model.card = self.model.card.model_copy(update={"steps": 2})
        return self.model


@pytest.fixture(scope="module")
def quick() -> Quick:
    return Quick()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem if page != README else "the README")
def test_python_runs(page: Path, quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block by itself, beside the files that the page's commands read, and the pictures that they draw."""
    for folder in (pages.INPUTS / page.stem, pages.PICTURES / page.stem):
        if folder.is_dir() and page != README:
            shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    module = ModuleType("diafano")
    module.__dict__.update({name: getattr(diafano, name) for name in diafano.__all__} | {"load": quick.load})
    module.__path__ = diafano.__path__
    monkeypatch.setitem(sys.modules, "diafano", module)
    monkeypatch.chdir(tmp_path)
    if page.stem == "addons":
        _make_large_addons(tmp_path, monkeypatch)
    for block in pages.blocks_of(page):
        if block.language == "python":
            code = compile(block.text, f"{page.name}, Python after {block.text[:30]!r}", "exec")
            exec(code, {"__name__": page.stem})


def _make_large_addons(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page has others make first: the sepia autoencoder, and a ControlNet, here one that learnt nothing."""
    import train_addons
    import train_controlnet

    monkeypatch.setattr(train_addons, "FOLDER", folder)
    model = diafano.load(device="cpu", dtype="float32")
    network = ControlNet.copied_from(model.unet, train_controlnet.HINT_WIDTHS)
    save_file(
        {name: tensor.detach().clone() for name, tensor in network.state_dict().items()},
        folder / "silhouettes.safetensors",
    )
    with torch.no_grad():
        train_addons.make_sepia(model)


READ = re.compile(r"--(?:image|mask|control-image|prompts|embedding|from|control|vae|preview-decoder) (\S+)")


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_what_drawn_commands_read_is_there_and_the_page_says_where(page: Path) -> None:
    inputs = pages.INPUTS / page.stem
    made: set[str] = set()
    for block in pages.blocks_of(page):
        for words in pages.commands_of(block) if block.drawn else []:
            read = set(READ.findall(" ".join(words))) - made
            assert all((inputs / name).exists() or (page.stem, name) in MADE_BY_SCRIPTS for name in read), read
            if read:
                assert f"docs/inputs/{page.stem}" in page.read_text(encoding="utf-8")
            made |= {name for name in words if name.endswith(".png")}


MADE_BY_SCRIPTS = {("addons", "sepia"), ("addons", "silhouettes.safetensors")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem if page != README else "the README")
def test_what_is_shown_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for place in re.findall(r"\]\(([^)#\s:]+)\)|<img\s[^>]*?src=\"([^\"]+)\"", text):
        assert (page.parent / (place[0] or place[1])).exists(), place


def test_the_index_leads_to_every_page() -> None:
    index = (pages.DOCS / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in pages.pages() if page.name != "README.md" and f"]({page.name})" not in index] == []


def test_pictures_are_shown_by_their_page_and_small() -> None:
    shown = {
        pages.DOCS / picture for page in pages.pages() for block in pages.blocks_of(page) for picture in block.pictures
    }
    kept = {path for path in pages.PICTURES.rglob("*") if path.is_file()}
    assert kept <= shown
    assert sum(path.stat().st_size for path in kept) <= MOST_BYTES


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_pictures_say_what_the_command_above_them_says(page: Path) -> None:
    """A command that was changed has to draw again: the prompt in a picture is one that stands above it."""
    for block in pages.blocks_of(page):
        if not block.drawn:
            continue
        for shown in block.pictures:
            recorded = read_parameters(page.parent / shown)
            commands = pages.commands_of(block)
            prompts = [words[2] for words in commands if words[1] == "generate" and not words[2].startswith("-")]
            if recorded is not None and len(prompts) == len(commands):
                assert recorded.startswith(tuple(prompts)), shown


def test_drawing_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "foxes.md"
    page.write_text(
        "Text.\n\n<!-- drawn -->\n```sh\ndiafano generate fox --steps 1 --seed 1 --output fox.png\n```\n\n"
        "```text\nold\n```\n\n![A fox](pictures/foxes/fox.png)\n\nMore.\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(draw, "PICTURES", tmp_path / "pictures")
    stale = tmp_path / "pictures" / "foxes" / "old.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert draw.draw(page) == 1
    assert [path.name for path in stale.parent.iterdir()] == ["fox.png"]
    assert "```text\nfox.png\n```\n\n![A fox]" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("rm -r /tmp/x", "only diafano's own"),
        ("diafano samplers", "did not draw"),
        ("diafano generate fox --steps 0", "exit code 2"),
    ],
)
def test_a_page_that_cannot_be_drawn_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str, complaint: str
) -> None:
    page = tmp_path / "x.md"
    text = f"<!-- drawn -->\n```sh\n{block}\n```\n![x](pictures/x/fox.png)\n"
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(draw, "PICTURES", tmp_path / "pictures")
    with pytest.raises(SystemExit, match=complaint):
        draw.draw(page)
    assert page.read_text(encoding="utf-8") == text
    assert not (tmp_path / "pictures").exists()


def test_the_sepia_autoencoder_is_sepia_of_what_the_model_draws(
    tiny_model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train_addons

    monkeypatch.setattr(train_addons, "FOLDER", tmp_path)
    model, latent = copy.deepcopy(tiny_model), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    train_addons.make_sepia(model)
    sepia = with_autoencoder(tiny_model, tmp_path / "sepia")
    with torch.inference_mode():
        plain, made = ((1 + one.autoencoder.decode(latent)) / 2 for one in (tiny_model, sepia))
    assert torch.allclose(made, torch.einsum("oc,bchw->bohw", train_addons.SEPIA, plain), atol=1e-3)  # half precision
