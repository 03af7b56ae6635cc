"""What the pages here hold for scripts and tests: their fenced blocks, the commands in them, and the pictures shown.

A block of commands with ``<!-- drawn -->`` on the line above is carried out by `docs/scripts/draw.py`, and what stands
between it and the next block is what it made:

    <!-- drawn -->
    ```sh
    diafano generate "a penguin on a red background" --seed 3 --output penguin.png
    ```

    ![A penguin](pictures/PAGE/penguin.png)        or <img src="pictures/PAGE/penguin.png" width="192" alt="A penguin">

A block ``text`` right below holds what such commands print. The blocks of a page are run one after the other in one
folder, which holds at first what lies in ``docs/inputs/PAGE``; so is each block of Python, by itself, by the tests.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1]
PICTURES, INPUTS = DOCS / "pictures", DOCS / "inputs"

_BLOCK = re.compile(r"(?:^<!-- (?P<mark>drawn) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_PICTURE = re.compile(r"""!\[[^\]]*\]\(([^)\s]+)\)|<img\s[^>]*?src="([^"]+)\"""")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    drawn: bool
    """Whether `docs/scripts/draw.py` carries it out."""
    pictures: tuple[str, ...]
    """What is shown between this block and the next: names of files as the page gives them."""
    start: int
    """Where its text begins in the page."""


def pages() -> list[Path]:
    """The pages in docs, by name."""
    return sorted(DOCS.glob("*.md"))


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page from top to bottom."""
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)][: len(found)]  # a page may have none
    return [
        Block(
            language=match["language"],
            text=match["text"],
            drawn=match["mark"] == "drawn",
            pictures=tuple(one or other for one, other in _PICTURE.findall(text[match.end() : end])),
            start=match.start("text"),
        )
        for match, end in zip(found, ends, strict=True)
    ]


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command in a block, ``diafano`` among them; comments are left out, joined lines are joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [["diafano", *words[1:]] if words[0].endswith("/diafano") else words for words in commands if words]
