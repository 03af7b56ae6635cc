"""What `peers.py` found, as markdown."""

import statistics
from collections.abc import Iterable
from typing import Any

from programs import PROGRAMS

OURS = "diafano"
NAMES = {
    "step": "UNet, one guided step",
    "decode": "Decode",
    "encode": "Encode",
    "text": "Text encoding",
    "picture": "Whole picture",
}
GIB = 2**30


def tables(found: dict[str, Any]) -> str:
    pieces = (_work, _growth, _cold, _process, _error, _ceilings, _machine)
    parts = [piece(found) for piece in pieces]
    return "\n\n".join(part for part in parts if part)


def row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def head(cells: list[str]) -> list[str]:
    return [row(cells), row(["---"] * len(cells))]


def runs_of(found: dict[str, Any], do: str) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if run["what"]["do"] == do]


def _kinds(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked for, each once, in order of size and batch."""
    kinds: list[dict[str, Any]] = []
    for run in runs:
        if run["what"] not in kinds:
            kinds.append(run["what"])
    return sorted(kinds, key=lambda what: (what["size"], what["batch"]))


def latest(found: dict[str, Any], what: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The last run of that work that had the program; diafano, which is in all, is told by its longest."""
    runs = [run for run in found["runs"] if run["what"] == what and name in run["found"]]
    if name == OURS and what["do"] in NAMES:
        return max(reversed(runs), key=lambda run: len(run["found"][name]["seconds"]), default=None)
    return runs[-1] if runs else None


def _cell(run: dict[str, Any] | None, name: str) -> str:
    """``3.52 s, 0.61``: the median, and diafano's of the same run as a share of it."""
    if run is None:
        return ""
    median = statistics.median(run["found"][name]["seconds"])
    if name == OURS or OURS not in run["found"]:
        return f"{median:.2f} s"
    return f"{median:.2f} s, {statistics.median(run['found'][OURS]['seconds']) / median:.2f}"


def _programs(runs: list[dict[str, Any]]) -> list[str]:
    there = {name for run in runs for name in run["found"]}
    return [name for name in PROGRAMS if name in there]


def _what(what: dict[str, Any]) -> str:
    name = NAMES[what["do"]]
    if what["do"] == "text":
        return name
    pictures = f", {what['batch']} at once" if what["batch"] > 1 else ""
    steps = f", {what['steps']} steps" if "steps" in what else ""
    return f"{name}{steps}, {what['size']}x{what['size']}{pictures}"


def _work(found: dict[str, Any]) -> str:
    runs = [run for do in NAMES for run in runs_of(found, do)]
    if not runs:
        return ""
    programs = _programs(runs)
    lines = head(["median, and diafano's share of it", *programs])
    for do in NAMES:
        for what in _kinds(runs_of(found, do)):
            lines.append(row([_what(what), *(_cell(latest(found, what, name), name) for name in programs)]))
    pauses = _pauses(found)
    return "\n".join([*lines, *(["", pauses] if pauses else [])])


def _pauses(found: dict[str, Any]) -> str:
    """What compiling and packing cost: how much longer the first step of a process takes than the others."""
    pauses = []
    runs = runs_of(found, "step")
    for name in _programs(runs):
        of = [run for what in _kinds(runs) if (run := latest(found, what, name)) is not None]
        first = next((run["found"][name]["pause"] for run in of if run["found"][name].get("pause") is not None), None)
        if first is not None:
            pauses.append(f"{name} {first:.1f} s")
    return f"The first step in a fresh process takes longer by: {', '.join(pauses)}." if pauses else ""


def _growth(found: dict[str, Any]) -> str:
    """A step's cost against size and batch, with the share of the ceiling."""
    runs = runs_of(found, "step")
    if "ceilings" not in found or not runs:
        return ""
    best = max(found["ceilings"]["bf16"].values())
    programs = _programs(runs)
    lines = head(["step: size, pictures at once", "TFLOP", *(f"{name}, of the ceiling" for name in programs)])
    for what in _kinds(runs):
        flops = found["ceilings"]["step"].get(f"{what['size']}x{what['batch']}")
        if flops is None:
            continue
        shares = []
        for name in programs:
            run = latest(found, what, name)
            median = None if run is None else statistics.median(run["found"][name]["seconds"])
            shares.append("" if median is None else f"{flops / median / best:.0%}")
        lines.append(row([f"{what['size']}x{what['size']}, {what['batch']}", f"{flops / 1e12:.2f}", *shares]))
    return "\n".join(lines)


def _process(found: dict[str, Any]) -> str:
    """What a process costs: importing and loading, and the memory that a picture takes, all included."""
    starts, memories = runs_of(found, "start"), runs_of(found, "memory")
    if not starts and not memories:
        return ""
    size = memories[-1]["what"]["size"] if memories else 0
    lines = head(["a process", "import, s", "load, s", f"peak with a picture of {size}x{size}, GiB"])
    for name in _programs([*starts, *memories]):
        start = latest(found, {"do": "start"}, name)
        of = start["found"][name] if start is not None else []
        times = [f"{statistics.median(one[part] for one in of):.2f}" if of else "" for part in ("import", "load")]
        memory = latest(found, memories[-1]["what"], name) if memories else None
        lines.append(row([name, *times, "" if memory is None else f"{memory['found'][name]['peak'] / GIB:.2f}"]))
    return "\n".join(lines)


def _cold(found: dict[str, Any]) -> str:
    """From the start of a process to its first picture."""
    runs = runs_of(found, "cold")
    lines = []
    for what in _kinds(runs):
        title = f"cold process, {what['steps']} steps, {what['size']}x{what['size']}"
        lines += ["", *head([title, "import, s", "load, s", "picture, s", "whole, s", "diafano's share"])]
        for name in _programs(runs):
            run = latest(found, what, name)
            if run is None:
                continue
            medians = {
                part: statistics.median(one[part] for one in run["found"][name])
                for part in ("import", "load", "picture", "seconds")
            }
            ours = statistics.median(one["seconds"] for one in run["found"][OURS])
            times = [f"{medians[part]:.2f}" for part in ("import", "load", "picture", "seconds")]
            lines.append(row([name, *times, f"{ours / medians['seconds']:.2f}"]))
    return "\n".join(lines[1:])


def _error(found: dict[str, Any]) -> str:
    runs = runs_of(found, "error")
    if not runs:
        return ""
    size = runs[-1]["what"]["size"]
    lines = head([f"guided prediction, {size}x{size}", "relative error", "against"])
    for name in _programs(runs):
        run = latest(found, runs[-1]["what"], name)
        if run is not None:
            error = run["found"][name]
            lines.append(row([name, f"{error['error']:.1e}", error["reference"]]))
    return "\n".join(lines)


def _ceilings(found: dict[str, Any]) -> str:
    if "ceilings" not in found:
        return ""
    lines = head(["measured ceiling, TFLOP/s", "bf16", "fp32"])
    for name, rate in found["ceilings"]["bf16"].items():
        lines.append(row([name, f"{rate / 1e12:.2f}", f"{found['ceilings']['fp32'][name] / 1e12:.2f}"]))
    return "\n".join(lines)


def _machine(found: dict[str, Any]) -> str:
    there = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in there["versions"].items())
    missing = f" Not installed: {', '.join(found['missing'])}." if found.get("missing") else ""
    instructions = ", ".join(there["instructions"]) or "no wide instructions"
    return f"{there['cores']} cores of {there['processor']} ({instructions}); {versions}.{missing}"
