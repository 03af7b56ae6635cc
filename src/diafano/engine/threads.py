"""Let waiting threads sleep: on a machine that is busy with other things, spinning ones can stop everything."""

import os
import sys
import time
from pathlib import Path

TURNS = 3000
"""How often a waiting thread of an idle machine looks for work before it sleeps: 0.1 ms or so."""

STATISTICS = Path("/proc/stat")
LOOKS = 4


def wait_asleep() -> bool:
    """Tell OpenMP, which spreads torch's operations over the cores, that a thread which waits long shall sleep.

    By default it spins until the others are done, which saves microseconds where each thread has a core of its own.
    Where other programs compute as well, it burns the time that the thread waited for would need: drawing a small
    picture on two cores beside another program took 20 to 40 s instead of 2 s.

    Where nothing else computes at the moment, it looks for work for a while before it sleeps. Waking a thread takes as
    long as many of a small network's operations do: that picture takes 1.3 s and not 1.9 s.

    OpenMP reads its settings when it is loaded, so this has to come before `import torch`. A policy that the user has
    set stays. Returns whether the setting takes effect.
    """
    if "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ:
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    if not others_compute():
        os.environ.setdefault("GOMP_SPINCOUNT", str(TURNS))
    return True


def others_compute() -> bool:
    """Whether a thread besides this one computes on this machine now; true where that cannot be found out.

    The kernel's own work comes and goes: what counts is whether there is a moment without any other.
    """
    try:
        for look in range(LOOKS):
            if look:
                time.sleep(0.002)
            if _running() <= 1:
                return False
    except (OSError, StopIteration, IndexError, ValueError):
        pass
    return True


def _running() -> int:
    """Threads that run or could run now, this one included."""
    lines = STATISTICS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("procs_running "))
