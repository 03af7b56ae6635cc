"""An experiment as a table: a row a picture, with its file, what varies and how long it took."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

FILE, SECONDS = "file", "seconds"


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    """With every column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [FILE], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: Sequence[dict[str, str]], varied: Sequence[str]) -> str:
    """With the columns that tell the pictures apart."""
    columns = [FILE, *varied, SECONDS]
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def known_seconds(path: Path) -> dict[str, str]:
    """File -> how long it took, from a table that is there already; nothing from one that cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row[FILE]: row[SECONDS] for row in csv.DictReader(file) if row.get(FILE) and row.get(SECONDS)}
    except (OSError, ValueError, KeyError, csv.Error):
        return {}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
