"""Keep freed memory in the process: handing it back and faulting it in again can cost more than the arithmetic.

And do not look for garbage where there is none, and let go of pages of files that are not read again.
"""

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from diafano.files import lines_of

# Parameters of glibc's mallopt(3); their numbers are part of its binary interface (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4

LARGEST_INT = 2**31 - 1

MADV_DONTNEED = 4
"""Of Linux's madvise(2)."""


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed memory instead of returning it to the system.

    By default glibc maps every large block anew and unmaps it when it is freed, so each large activation of a
    network is faulted in page by page, and zeroed by the kernel, every time it is computed. A linear layer with a
    42 MB result runs several times as fast when its memory is kept.

    The environment variables MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ do the same, but are read when a
    process starts; mallopt works at any time, for blocks allocated from then on. M_MMAP_THRESHOLD would need a value
    above 32 MiB, which glibc before 2.35 refuses, so mapping is switched off as a whole. The price is that the
    process keeps its peak memory until it ends.

    Returns whether the allocator took the settings. Elsewhere (macOS, Windows, musl) nothing happens: False.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST_INT))


@contextmanager
def without_collecting() -> Iterator[None]:
    """Python's garbage collector waits until the block is over.

    Loading a model, and importing what loads it, makes a hundred thousand objects, nearly all of which stay. Again and
    again the collector would look through all objects of torch for what has become unreachable, which doubles the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def starting() -> Iterator[None]:
    """`without_collecting`, for what a command imports and loads: the collector never looks at any of it again.

    Not even as the process ends, where Python otherwise looks through everything once more.
    """
    with without_collecting():
        yield
        gc.freeze()


class MappedFiles:
    """The parts of this process's memory that are files, as of now; none where there is no /proc (not Linux)."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        maps = Path("/proc/self/maps")
        text = maps.read_text(encoding="utf-8", errors="replace") if maps.is_file() else ""
        for line in lines_of(text):
            fields = line.split(maxsplit=5)  # addresses, permissions, offset, device, inode, path
            if fields[4] != "0":
                start, end = (int(address, 16) for address in fields[0].split("-"))
                self._ranges.append((start, end))

    def forget(self, address: int, length: int) -> None:
        """Let go of the whole pages in a range, if it lies in a file: read again, they come from the file again.

        Pages that were only read stay in a process's memory until the file is unmapped as a whole. Whoever has changed
        them in memory must not call this.
        """
        page = os.sysconf("SC_PAGE_SIZE")
        first, last = -(-address // page) * page, (address + length) // page * page
        if last > first and any(start <= first and last <= end for start, end in self._ranges):
            _madvise()(first, last - first, MADV_DONTNEED)


@cache
def _madvise() -> Callable[[int, int, int], int]:
    """Kept, because each new one is a cycle of objects that stays until the garbage collector comes."""
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
