"""What the cells of `faults.py` share: a place to run commands in, and how their endings are judged."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_commands as commands
from fault_commands import Command

NAMESPACE = "DIAFANO_FAULTS_NAMESPACE"
"""Set where the process has a namespace of mounts for itself."""
SEED = 12
"""Of all chance."""
LONGEST = 240.0
"""Seconds of one command."""


@dataclass
class Outcome:
    """A command that has ended."""

    code: int
    out: str
    error: str

    @property
    def complaints(self) -> list[str]:
        return [
            line
            for line in self.error.splitlines()
            if line.startswith("diafano: ") and not line.startswith("diafano: note: ")
        ]


class Campaign:
    """What the cells share: a folder with models and inputs, and what a healthy run of each command writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.healthy: dict[str, tuple[Path, float]] = {}
        self.place = root / "cell"
        commands.prepare(root)

    def started(
        self,
        arguments: Sequence[str | bytes],
        *,
        powerless: bool = False,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """The command, begun in the cell's place; `powerless`: rights hold for it, also where root runs it."""
        whole = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "DIAFANO_ENGINE": "off",
            "LC_ALL": "C.UTF-8",
            **(environment or {}),
        }
        prefix: list[str | bytes] = []
        if powerless and os.geteuid() == 0:
            less = "-dac_override,-dac_read_search"
            prefix = ["setpriv", f"--bounding-set={less}", f"--inh-caps={less}"]
        given: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        command = [*prefix, sys.executable, "-m", "diafano", *arguments]
        return subprocess.Popen(command, cwd=self.place, env=whole, **given)

    def ended(self, process: subprocess.Popen[bytes]) -> Outcome:
        try:
            out, error = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            error = (error or b"") + b"\nTraceback: it did not end"
        return Outcome(
            process.returncode,
            (out or b"").decode("utf-8", "surrogateescape"),
            (error or b"").decode("utf-8", "surrogateescape"),
        )

    def fresh(self) -> None:
        """An empty place with `out`, a folder."""
        for _ in range(4):
            subprocess.run(["umount", "-q", self.place / "out"], check=False, capture_output=True)
        if self.place.exists():
            subprocess.run(["chmod", "-R", "u+rwX", self.place], check=False, capture_output=True)
            shutil.rmtree(self.place)
        (self.place / "out").mkdir(parents=True)

    def result(self, command: Command) -> tuple[Path, float]:
        """What the command writes where nothing is wrong (a copy), and how long it takes."""
        if command.name not in self.healthy:
            self.fresh()
            begin = time.perf_counter()
            outcome = self.ended(self.started(command.arguments(self, "out/result")))
            seconds = time.perf_counter() - begin
            wrong = self.unsound(command, hidden=True)
            if outcome.code != 0 or wrong:
                raise SystemExit(f"{command.name} fails where nothing is wrong: {outcome} {wrong}")
            kept = self.root / "healthy" / command.name.replace(" ", "-")
            shutil.copytree(self.place / "out", kept, symlinks=True)
            self.healthy[command.name] = (kept, seconds)
        return self.healthy[command.name]

    def unsound(self, command: Command, *, hidden: bool) -> list[str]:
        """What lies there under its final name and is not whole; with `hidden` also what is left of unfinished work."""
        found = []
        for path in sorted((self.place / "out").rglob("*")):
            inside = path.relative_to(self.place / "out")
            if any(part.startswith(".") for part in inside.parts):
                if hidden:
                    found.append(f"{inside} is left")
            elif path.is_file() and (why := commands.broken(path)):
                found.append(f"{inside} is half a file: {why}")
        return found

    def judged(
        self, command: Command, outcome: Outcome, *, codes: tuple[int, ...], named: str | None = None
    ) -> list[str]:
        """What is wrong with an ending that may have one of these codes; after a refusal `named` must be named."""
        wrong = []
        for word in ("Traceback", "Exception ignored", "Fatal Python error", "Error in sys.", "core dumped"):
            if word in outcome.error:
                wrong.append(f"{word}: {outcome.error.strip().splitlines()[-1]}")
        if outcome.code not in codes:
            wrong.append(f"ended with {outcome.code}, not {codes}: {outcome.error.strip()[-200:]}")
        if outcome.code == 2:
            if len(outcome.complaints) != 1:
                wrong.append(f"{len(outcome.complaints)} sentences: {outcome.error.strip()[-300:]}")
            elif named is not None and named not in outcome.complaints[0]:
                wrong.append(f"{named!r} is not named: {outcome.complaints[0]}")
            if outcome.complaints and "[Errno" in outcome.complaints[0]:
                wrong.append(f"a number instead of words: {outcome.complaints[0]}")
        return wrong + self.unsound(command, hidden=True)


Run = Callable[[Campaign], list[str] | None]
"""What a cell does; it returns what went wrong, or None where it cannot be tried here."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def size(folder: Path) -> int:
    """Bytes in pages, as a file system in memory counts."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def mounted(place: Path, room: int) -> bool:
    if NAMESPACE not in os.environ:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={max(room, 4096)}", "tmpfs", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
