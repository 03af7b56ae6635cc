"""The parts of the documents here that scripts write: between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``."""

import re
from pathlib import Path


def write_between_markers(document: Path, name: str, text: str) -> None:
    """Put `text` where the document has the two markers of that name, which stay."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = document.read_text(encoding="utf-8")
    new, found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text.strip()}\n{end}", old, flags=re.DOTALL
    )
    if found != 1:
        raise SystemExit(f"{document} has the markers {begin} and {end} {found} times: it must have them once")
    document.write_text(new, encoding="utf-8")
