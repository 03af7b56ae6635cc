"""Freed memory stays in the process where the allocator is glibc's, elsewhere nothing happens; what is not garbage."""

import platform
import subprocess
import sys

import pytest

from diafano.engine import memory

COUNT_FAULTS = """
import resource, sys
from diafano.engine.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(40):  # 32 MiB each, written, freed
    block = bytearray(2**25)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_is_faulted_in_once() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, check=True).stdout)
        for mode in ("kept", "returned")
    }
    assert faults["kept"] < faults["returned"] / 2


def test_nothing_happens_with_another_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False


def test_what_a_command_starts_with_is_never_looked_at_again() -> None:
    script = """if True:
        import gc
        from diafano.engine.memory import starting
        before = gc.get_freeze_count()
        with starting():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() - before >= 1000
        assert not any(one is kept for one in gc.get_objects())
    """
    subprocess.run([sys.executable, "-c", script], check=True)
