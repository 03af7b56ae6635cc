"""How long `diafano generate` takes from command to file, next to `import torch`, the part that nobody can avoid.

    .venv/bin/python benchmarks/command_time.py [--runs 5]

The two are run in turn, so that a machine whose speed drifts favours neither. Prints medians and their ratio.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    before = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - before


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=5)
    runs = arguments.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "picture.png"
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import diafano": [sys.executable, "-c", "import diafano; diafano.StableDiffusion"],
            "generate, 50 steps": [
                *(sys.executable, "-m", "diafano", "generate", "a penguin on a red background"),
                *("--seed", "1", "--steps", "50", "--output", str(target)),
            ],
            "help": [sys.executable, "-m", "diafano", "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(runs + 1):
            for name, command in commands.items():
                taken = seconds(command)
                if run > 0:  # the first round warms the disk's cache
                    times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        print(f"{name:<20} {median:6.2f} s   {median / medians['import torch']:5.2f} x import torch   ({spread})")


if __name__ == "__main__":
    main()
