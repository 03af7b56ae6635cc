"""Draws the pictures of the pages in docs again, by carrying out the commands that are printed above them.

    .venv/bin/python docs/scripts/draw.py [PAGE...]        (all pages, or those named: "prompts" is docs/prompts.md)

`pages` says which commands those are. A page's commands run in a fresh folder with the model that ships with the
package; when all of them are done, the pictures that the page shows replace those in ``docs/pictures/PAGE``, and what
was printed replaces the blocks of text that show it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import INPUTS, PICTURES, Block, blocks_of, commands_of, pages


def draw(page: Path) -> int:
    """Carry out a page's commands; returns how many they were. Ends the script where one of them fails."""
    blocks = blocks_of(page)
    drawn = [at for at, block in enumerate(blocks) if block.drawn]
    if not drawn:
        return 0
    printed: dict[int, str] = {}
    done = 0
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name) / "work", Path(name) / "made"
        if (inputs := INPUTS / page.stem).is_dir():
            shutil.copytree(inputs, folder)
        folder.mkdir(exist_ok=True)
        made.mkdir()
        for at in drawn:
            output = "".join(_run(words, folder, page) for words in commands_of(blocks[at]))
            done += len(commands_of(blocks[at]))
            pictures = list(blocks[at].pictures)
            if at + 1 < len(blocks) and blocks[at + 1].language == "text":
                printed[at + 1] = output
                pictures += blocks[at + 1].pictures
            for shown in pictures:
                _keep(shown, page, folder, made)
        shutil.rmtree(PICTURES / page.stem, ignore_errors=True)
        if any(made.iterdir()):
            shutil.copytree(made, PICTURES / page.stem)
    _write_printed(page, blocks, printed)
    return done


def _run(words: list[str], folder: Path, page: Path) -> str:
    if words[0] != "diafano":
        raise SystemExit(f"{page.name} draws with {words[0]!r}: only diafano's own commands are carried out")
    print(page.name, *words[1:], flush=True)
    command = [sys.executable, "-m", *words]
    result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, encoding="utf-8")
    if result.returncode != 0:
        raise SystemExit(f"{page.name}: the command ended with exit code {result.returncode}")
    return result.stdout


def _keep(shown: str, page: Path, folder: Path, made: Path) -> None:
    """Take a picture that the page shows, by the name it gives, into what it keeps."""
    own = (PICTURES.name, page.stem)
    if Path(shown).parts[:2] != own:
        raise SystemExit(f"{page.name} shows {shown}: what it draws belongs into {'/'.join(own)}/")
    place = Path(*Path(shown).parts[2:])
    if not (folder / place).is_file():
        raise SystemExit(f"{page.name} shows {shown}, which the commands above did not draw")
    (made / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / place, made / place)


def _write_printed(page: Path, blocks: list[Block], printed: dict[int, str]) -> None:
    text = page.read_text(encoding="utf-8")
    for at in sorted(printed, reverse=True):
        block = blocks[at]
        text = text[: block.start] + printed[at] + text[block.start + len(block.text) :]
    page.write_text(text, encoding="utf-8")


def main() -> None:
    wanted = set(sys.argv[1:])
    known = {page.stem: page for page in pages()}
    if unknown := wanted - known.keys():
        raise SystemExit(f"there is no page {', '.join(sorted(unknown))}: the pages are {', '.join(known)}")
    for name, page in known.items():
        if not wanted or name in wanted:
            draw(page)


if __name__ == "__main__":
    main()
