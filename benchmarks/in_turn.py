"""Commands measured in turn, each run in a process of its own, so that a machine whose speed drifts favours none."""

import statistics
import subprocess
from collections.abc import Callable, Mapping
from typing import TypeVar

Measured = TypeVar("Measured")


def output_of(command: list[str]) -> str:
    """What the command prints; if it fails, its own words are the error."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return done.stdout


def in_turn(
    commands: Mapping[str, list[str]], runs: int, measure: Callable[[list[str]], Measured], *, warm: bool = True
) -> dict[str, list[Measured]]:
    """`runs` measurements of each command, round by round, with `warm` after a round that warms the disk's cache."""
    measured: dict[str, list[Measured]] = {name: [] for name in commands}
    for run in range(runs + warm):
        for name, command in commands.items():
            value = measure(command)
            if run >= warm:
                measured[name].append(value)
    return measured


def median_and_spread(values: list[float]) -> str:
    """``1.23 s (1.20 to 1.31)``"""
    return f"{statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})"
