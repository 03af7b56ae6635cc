"""Let waiting threads sleep: on a machine that is busy with other things, spinning ones can stop everything."""

import os
import sys


def wait_asleep() -> bool:
    """Tell OpenMP, which spreads torch's operations over the cores, that a thread which waits shall sleep.

    By default it spins until the others are done, which saves microseconds where each thread has a core of its own.
    Where other programs compute as well, it burns the time that the thread waited for would need: drawing a small
    picture on two cores beside another program took 20 to 40 s instead of 4.6 s.

    OpenMP reads its settings when it is loaded, so this has to come before `import torch`. A policy that the user has
    set stays. Returns whether the setting takes effect.
    """
    if "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ:
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return True
