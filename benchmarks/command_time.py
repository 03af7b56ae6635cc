"""How long `diafano generate` takes from command to file, next to `import torch`, the part that nobody can avoid.

    .venv/bin/python benchmarks/command_time.py [--runs 5]

The commands are run in turn. Prints medians and their ratio. `the drawing` is the command's part between the loaded
model and the picture, timed inside a process that does what the command does.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from in_turn import in_turn, median_and_spread, output_of

PROMPT = "a penguin on a red background"
DRAWING = f"""
from diafano.engine.threads import wait_asleep
wait_asleep()
from diafano.engine.memory import keep_freed_memory
keep_freed_memory()
import time
import diafano
model = diafano.load()
begin = time.perf_counter()
model.generate({PROMPT!r}, seed=1, steps=50)
print(time.perf_counter() - begin)
"""


def seconds(command: list[str]) -> float:
    """What the command printed, if it was asked for its own time, or the time that it took."""
    begin = time.perf_counter()
    printed = output_of(command)
    return float(printed) if DRAWING in command else time.perf_counter() - begin


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
                *(sys.executable, "-m", "diafano", "generate", PROMPT),
                *("--seed", "1", "--steps", "50", "--output", str(target)),
            ],
            "the drawing": [sys.executable, "-c", DRAWING],
            "help": [sys.executable, "-m", "diafano", "--help"],
        }
        times = in_turn(commands, runs, seconds)
    for name, values in times.items():
        ratio = statistics.median(values) / statistics.median(times["import torch"])
        print(f"{name:<20} {ratio:5.2f} x import torch   {median_and_spread(values)}")


if __name__ == "__main__":
    main()
