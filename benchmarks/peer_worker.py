"""One program of `peers.py` in a process of its own: `peer_worker.py PROGRAM FOLDER`.

It imports the program, loads the model and says in one line of JSON how long each took. Then it answers each line of
JSON on its standard input, ``{"do": "step", "size": 512, "batch": 1}``, with the seconds that it took, until there are
no more. Work of a kind that it has not done before is done once beforehand, so that nothing is timed cold; by how much
that took longer, compiling and all, is answered as well.
"""

import json
import os
import re
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

START = time.perf_counter()


def memory(name: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most so far; pages of mapped files included."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def timed(program: Any, asked: dict[str, Any]) -> float:
    """Seconds; a program that times itself says how many."""
    before = time.perf_counter()
    said = getattr(program, asked["do"])(**{name: value for name, value in asked.items() if name not in ("do", "into")})
    return said if isinstance(said, float) else time.perf_counter() - before


def answer(program: Any, asked: dict[str, Any], done: set[str]) -> dict[str, Any]:
    if not hasattr(program, asked["do"]):
        return {"cannot": True}
    if asked["do"] == "predictions":
        import torch

        torch.save(program.predictions(asked["size"]), asked["into"])
        return {}
    key = json.dumps(asked, sort_keys=True)
    # A whole picture needs no run beforehand where its parts have been run.
    warm = key in done or asked["do"] == "picture" or (asked["do"] == "step" and hasattr(program, "warms_itself"))
    done.add(key)
    seconds, calls = 0.0, []
    for _ in range(1 if warm else 2):
        before = time.perf_counter()
        seconds = timed(program, asked)
        calls.append(time.perf_counter() - before)
    return {"seconds": seconds, "pause": None if warm else max(0.0, calls[0] - calls[1])}


def main() -> None:
    # Replies go where standard output went; what the program prints goes to standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(**said: Any) -> None:
        print(json.dumps({**said, "memory": memory("VmRSS"), "peak": memory("VmHWM")}), file=replies, flush=True)

    module, name, folder = sys.argv[1:]
    program = getattr(import_module(f"programs.{module}"), name)(Path(folder))
    imported = time.perf_counter()
    program.load()
    reply(**{"import": imported - START, "load": time.perf_counter() - imported})
    done: set[str] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        reply(**(answer(program, asked, done)))


if __name__ == "__main__":
    main()
