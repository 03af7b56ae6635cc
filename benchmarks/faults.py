"""Every command against what can go wrong around it: docs/faults.md's table.

    .venv/bin/python benchmarks/faults.py [--only WORD ...] [--kinds KIND ...] [--json FILE] [--write]

The real commands, as processes, on a model so small that it draws nothing: disks that are full or fill up, folders that
may not be written to, files that may not be read or are something else, standard streams that are closed, full or
broken, locales without letters, and ends at random moments (seeded), after which the same command is given again.
As root of a Linux it mounts its disks in a namespace of its own; elsewhere those cells are skipped, and said to be.
`--write` puts the table into docs/faults.md. It takes half an hour.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fault_commands as commands
from fault_campaign import NAMESPACE, SEED, Campaign, Run, contents, mounted, size
from fault_commands import Command
from fault_data import data_faults
from fault_process import KILLS, LOCALES, PROMPTS, ended_by, in_a_locale, with_streams

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS / "scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)

LONG = "x" * 300


@dataclass
class Cell:
    """One command under one fault."""

    kind: str
    command: str
    fault: str
    run: Run
    """What is wrong with what it did; None: cannot be tried here."""


# ---- what is wrong with the place to write to


def on_a_full_disk(command: Command, share: float | None, *, earlier: bool = False) -> Run:
    """`share`: of what the command writes there is room for so much."""

    def run(campaign: Campaign) -> list[str] | None:
        healthy, _ = campaign.result(command)
        campaign.fresh()
        room = int(size(healthy) * share) if share is not None else 0
        if not mounted(campaign.place / "out", room + 2 * size(healthy)):
            return None
        if earlier:
            shutil.copytree(healthy, campaign.place / "out", dirs_exist_ok=True)
        before = contents(campaign.place / "out")
        there = size(campaign.place / "out")
        remount = f"remount,size={there + max(room, 4096)}"
        subprocess.run(["mount", "-o", remount, campaign.place / "out"], check=True, capture_output=True)
        outcome = campaign.ended(campaign.started(command.arguments(campaign, "out/result")))
        codes = (0,) if command.shows else (2,) if share is None and not earlier else (0, 2)
        wrong = campaign.judged(command, outcome, codes=codes, named="out")
        if outcome.code == 0 and command.shows and "No space left" not in outcome.error:
            wrong.append("nothing said that it was not written")
        after = contents(campaign.place / "out")
        if outcome.code == 2:
            wrong += [
                f"{name} was there before, and is lost"
                for name, old in before.items()
                if name not in after or (after[name] != old and not command.appends(name))
            ]
        return wrong

    return run


def refused(command: Command, spoil: Callable[[Campaign], str | None], *, powerless: bool = False) -> Run:
    """`spoil` makes the place one that is refused, and returns the name to give; None where it cannot."""

    def run(campaign: Campaign) -> list[str] | None:
        campaign.result(command)
        campaign.fresh()
        name = spoil(campaign)
        if name is None:
            return None
        ending = command.ending
        outcome = campaign.ended(campaign.started(command.arguments(campaign, name), powerless=powerless))
        wrong = campaign.judged(command, outcome, codes=(2,), named=Path(name).name[:40])
        if outcome.out:
            wrong.append(f"said {outcome.out!r}")
        for left in (campaign.place / f"{name}{ending}", campaign.place / "elsewhere"):
            if len(left.name) < 255 and left.is_file() and left.read_bytes() != b"mine":
                wrong.append(f"{left.name} was written")
        return wrong

    return run


def read_only(campaign: Campaign) -> str | None:
    if not mounted(campaign.place / "out", 65536):
        return None
    subprocess.run(["mount", "-o", "remount,ro", campaign.place / "out"], check=True, capture_output=True)
    return "out/result"


def without_rights(campaign: Campaign) -> str | None:
    (campaign.place / "out").chmod(0o555)
    return "out/result"


def other_kind(command: Command) -> Callable[[Campaign], str | None]:
    def spoil(campaign: Campaign) -> str | None:
        place = campaign.place / f"out/result{command.ending}"
        place.mkdir() if command.ending else place.write_text("mine")
        return "out/result"

    return spoil


def in_a_file(campaign: Campaign) -> str:
    (campaign.place / "out/file").write_text("mine")
    return "out/file/result"


def linked_to_nowhere(command: Command) -> Callable[[Campaign], str | None]:
    def spoil(campaign: Campaign) -> str | None:
        (campaign.place / "out/link").symlink_to(campaign.place / "absent", target_is_directory=True)
        return "out/link/result"

    return spoil


def over_earlier_work(command: Command) -> Run:
    """It may be replaced by the user's word, or stays; either is said."""

    def run(campaign: Campaign) -> list[str]:
        healthy, _ = campaign.result(command)
        campaign.fresh()
        shutil.copytree(healthy, campaign.place / "out", dirs_exist_ok=True)
        outcome = campaign.ended(campaign.started(command.arguments(campaign, "out/result")))
        wrong = campaign.judged(command, outcome, codes=(0,))
        if not any(word in outcome.error for word in ("replaced", "there already", "done before")):
            new = set(contents(campaign.place / "out")) - set(contents(healthy))
            if not new:
                wrong.append("what was there was replaced, and nothing said so")
        return wrong

    return run


# ---- what is wrong with what is read


def with_an_input(command: Command, spoil: str) -> Run:
    def run(campaign: Campaign) -> list[str] | None:
        campaign.fresh()
        arguments = command.arguments(campaign, "out/result")  # puts the inputs there
        path = campaign.place / command.reads
        healthy = path.read_bytes() if path.is_file() else None
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        name = command.reads
        if spoil == "a folder in the file's place":
            if healthy is None:
                path.touch()
            else:
                path.mkdir()
        elif spoil == "empty":
            path.touch() if healthy is not None else path.mkdir()
        elif spoil == "cut in half":
            if healthy is None:
                return None
            path.write_bytes(healthy[: len(healthy) // 2])
        elif spoil == "garbage":
            if healthy is None:
                return None
            path.write_bytes(random.Random(SEED).randbytes(3000))
        elif spoil == "unreadable":
            if healthy is None:
                path.mkdir()
            else:
                path.write_bytes(healthy)
            path.chmod(0)
        elif spoil == "a link to nowhere":
            path.symlink_to(campaign.place / "absent")
        elif spoil == "a name too long":
            name = LONG + path.suffix
            arguments = [one.replace(command.reads, name) if isinstance(one, str) else one for one in arguments]
            if (recipe := campaign.place / "recipe.toml").is_file():
                recipe.write_text(recipe.read_text().replace(f'"{command.reads}', f'"{name}'))
        outcome = campaign.ended(campaign.started(arguments, powerless=spoil == "unreadable"))
        codes = (0,) if spoil in command.goes_on else (2,)
        return campaign.judged(command, outcome, codes=codes, named=Path(name).stem[:40])

    return run


def with_data(command: Command, spoil: Callable[[Path], str], *, codes: tuple[int, ...]) -> Run:
    """A folder of captioned pictures, or a run's folder, in which something is wrong."""

    def run(campaign: Campaign) -> list[str] | None:
        healthy, _ = campaign.result(command)
        campaign.fresh()
        shutil.copytree(healthy, campaign.place / "out", dirs_exist_ok=True)
        arguments = command.arguments(campaign, "out/result")
        named = spoil(campaign.place)
        outcome = campaign.ended(campaign.started(arguments, powerless=True))
        wrong = campaign.judged(command, outcome, codes=codes, named=named)
        return [one for one in wrong if "half a file" not in one]  # it was made so

    return run


def cells() -> Iterator[Cell]:
    """The whole grid."""
    for command in commands.WRITING:
        places: dict[str, Run] = {
            "full disk": on_a_full_disk(command, None),
            "disk that fills up": on_a_full_disk(command, 0.5),
            "full disk, earlier work there": on_a_full_disk(command, None, earlier=True),
            "read-only file system": refused(command, read_only),
            "folder without rights": refused(command, without_rights, powerless=True),
            "folder for a file, file for a folder": refused(command, other_kind(command)),
            "a file on the way": refused(command, in_a_file),
            "a link to nowhere on the way": refused(command, linked_to_nowhere(command)),
            "a name too long": refused(command, lambda _: f"out/{LONG}"),
            "something is there already": over_earlier_work(command),
        }
        if command.makes_parents:  # it makes the folders on the way
            del places["a link to nowhere on the way"]
        if command.name == "generate":  # a folder is a place to write into
            del places["folder for a file, file for a folder"]
        for fault, run in places.items():
            yield Cell("the place to write to", command.name, fault, run)
    for command in commands.READING:
        for fault in commands.INPUT_FAULTS:
            yield Cell("a file to read", command.name, fault, with_an_input(command, fault))
    for command, fault, spoil, codes in data_faults():
        yield Cell("training data and checkpoints", command.name, fault, with_data(command, spoil, codes=codes))
    for command in commands.SAYING:
        for which in (
            "standard input closed",
            "standard output closed",
            "standard output full",
            "standard output broken",
            "standard error closed",
            "standard error full",
            "all closed",
        ):
            yield Cell("standard streams", command.name, which, with_streams(command, which))
    for command in commands.SPELLING:
        for locale in LOCALES:
            for prompt in PROMPTS:
                yield Cell("locales", command.name, f"{locale}, {prompt}", in_a_locale(command, locale, prompt))
    for command in commands.KILLED:
        for number, times in KILLS.items():
            for attempt in range(times):
                yield Cell(
                    "ended at a random moment",
                    command.name,
                    f"{number.name} {attempt + 1}",
                    ended_by(command, number, attempt),
                )


def table(results: list[tuple[Cell, list[str] | None]]) -> str:
    lines = ["| what goes wrong | cells | passed | failed | skipped |", "| --- | --- | --- | --- | --- |"]
    for kind in [*dict.fromkeys(cell.kind for cell, _ in results), None]:
        ends = Counter(
            "skipped" if wrong is None else "failed" if wrong else "passed"
            for cell, wrong in results
            if kind in (None, cell.kind)
        )
        figures = " | ".join(str(ends[end]) for end in ("passed", "failed", "skipped"))
        lines.append(f"| {kind or 'all'} | {ends.total()} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="cells whose command or fault holds one of these words")
    parser.add_argument("--kinds", nargs="*", default=[], help="the same of the table's rows")
    parser.add_argument(
        "--json", type=Path, help="what was wrong, cell by cell; what is there already is not run again"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/faults.md")
    given = parser.parse_args()
    if os.geteuid() == 0 and NAMESPACE not in os.environ and shutil.which("unshare"):
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    known: dict[str, list[str] | None] = {}
    if given.json is not None and given.json.exists():
        known = json.loads(given.json.read_text(encoding="utf-8"))
    results: list[tuple[Cell, list[str] | None]] = []
    with tempfile.TemporaryDirectory() as root:
        campaign = Campaign(Path(root))
        for cell in cells():
            text = f"{cell.command}: {cell.fault}"
            if given.only and not any(word in text for word in given.only):
                continue
            if given.kinds and not any(word in cell.kind for word in given.kinds):
                continue
            name = f"{cell.kind}: {text}"
            if name not in known:
                known[name] = cell.run(campaign)
                said = "skipped" if known[name] is None else "; ".join(known[name] or ()) or "ok"
                print(f"{text}: {said}".encode("ascii", "backslashreplace").decode(), flush=True)
                if given.json is not None:
                    given.json.write_text(json.dumps(known, indent=1), encoding="utf-8")
            results.append((cell, known[name]))
        campaign.fresh()
    print(table(results))
    if given.write:
        write_between_markers(DOCS / "faults.md", "faults", table(results))
    sys.exit(any(wrong for _, wrong in results))


if __name__ == "__main__":
    main()
