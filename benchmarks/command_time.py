"""How long `diafano generate` takes from command to file, next to `import torch`, the part that nobody can avoid.

    .venv/bin/python benchmarks/command_time.py [--runs 5]

The commands are run in turn. Prints medians and their ratio.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from in_turn import in_turn, median_and_spread, seconds


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
        times = in_turn(commands, runs, seconds)
    for name, values in times.items():
        ratio = statistics.median(values) / statistics.median(times["import torch"])
        print(f"{name:<20} {ratio:5.2f} x import torch   {median_and_spread(values)}")


if __name__ == "__main__":
    main()
