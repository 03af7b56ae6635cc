"""Writes what is made of the table of settings (`diafano.request.settings`) and of the tables that it names:
docs/settings.md, for type checkers the keyword arguments in src/diafano/request/keywords.py, and for shells the names
in src/diafano/cli/names.py.

    .venv/bin/python docs/scripts/settings.py
"""

import re
from collections.abc import Iterable
from pathlib import Path

from diafano.networks.tileable import AXES
from diafano.pictures.upscaling import UPSCALERS
from diafano.request.fields import MASKED_CONTENT
from diafano.request.programs.table import PROGRAMS
from diafano.request.rows import Row
from diafano.request.settings import GROUPS, SETTINGS
from diafano.sampling.samplers.table import SAMPLERS
from diafano.sampling.sigmas import SCHEDULES

PAGE = Path(__file__).parents[1] / "settings.md"
KEYWORDS = Path(__file__).parents[2] / "src/diafano/request/keywords.py"
NAMES = Path(__file__).parents[2] / "src/diafano/cli/names.py"

PAGE_HEAD = """# Every setting

What can be said of a picture, on the command line and in Python; how the text that a picture carries calls it, and what
A1111's API does. Made from the table in `src/diafano/request/settings.py`: a new setting is a row there, and the place
where it acts.

```sh
diafano generate "a fox" --sampler heun --s-churn 20 --s-tmin 0.5 --clip-skip 2
diafano generate "a fox" --vary clip-skip=1,2 --seed 3
```

```python
import diafano

model = diafano.load()
model.generate("a fox", sampler="heun", s_churn=20.0, s_tmin=0.5, clip_skip=2)
```
"""

KEYWORDS_HEAD = '''\
"""The settings as keyword arguments, for type checkers. Written by docs/scripts/settings.py, from the table."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from diafano.pictures.sides import Sides


class Settings(TypedDict, total=False):
    """What can be said of a `Request` besides its prompt, as keyword arguments. None is as if it were left out."""

'''

NAMES_HEAD = '''\
"""The names that some settings may have, for shells that complete them: their tables need torch, which takes a second.

Written by docs/scripts/settings.py, from the tables.
"""

NAMES: dict[str, tuple[str, ...]] = {
'''

ONLY = {True: "For drawing over a picture alone.", False: "For pictures from text alone.", None: ""}


def keywords() -> str:
    """The module of typed keyword arguments."""
    lines = [f"    {name}: {' | '.join(map(_type, row.types))} | None\n" for name, row in SETTINGS.items()]
    return KEYWORDS_HEAD + "".join(lines)


def _type(kind: object) -> str:
    said = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"[\w.]+\.(\w+)", r"\1", said)


def names() -> str:
    """The module of names."""
    found: dict[str, Iterable[str]] = {
        "sampler": SAMPLERS,
        "schedule": SCHEDULES,
        "hires_upscaler": (name.replace(" ", "-") for name in UPSCALERS),
        "masked_content": (name.replace(" ", "-") for name in MASKED_CONTENT),
        "tileable": (*AXES, "no"),
        "like": PROGRAMS,
    }
    lines = (
        f'    "{name}": (\n' + "".join(f'        "{one}",\n' for one in of) + "    ),\n" for name, of in found.items()
    )
    return NAMES_HEAD + "".join(lines) + "}\n"


def page() -> str:
    """The page of settings: a table for each group."""
    titles = dict.fromkeys(group.title for group in GROUPS)
    return PAGE_HEAD + "".join(_section(title) for title in titles)


def _section(title: str) -> str:
    rows = [row for row in SETTINGS.values() if row.group.title == title]
    only = next((ONLY[row.group.picture] for row in rows), "")
    lines = [
        f"\n## {title}\n",
        *([only + "\n"] if only else []),
        "| setting | | what it says | a picture's text | A1111's API |",
        "| --- | --- | --- | --- | --- |",
        *map(_line, rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    said = row.setting
    value = "" if said.metavar is None else f"`{said.metavar}`"
    where = "" if said.option else " (Python only)"
    texts, api = (", ".join(f"`{name}`" for name in names) for names in ((text.key for text in said.texts), said.api))
    cells = (f"`{row.name}`{where}", value, said.help, texts, api)
    return "|".join(["", *(f" {cell} " if cell else " " for cell in cells), ""])


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    KEYWORDS.write_text(keywords(), encoding="utf-8")
    NAMES.write_text(names(), encoding="utf-8")


if __name__ == "__main__":
    main()
