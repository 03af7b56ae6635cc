"""The engine's C++ library: compiled when it is first needed, in about three seconds, and kept in the user's cache.

Nothing is asked of the user: without a compiler, or on another processor, there is no library and torch computes.
The environment variable DIAFANO_ENGINE=off leaves it out.
"""

import ctypes
import enum
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from diafano.files import cache_folder, lines_of

SOURCES = Path(__file__).parent / "native"
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-fopenmp", "-fvisibility=hidden"]
EXTENSIONS = ("f", "bw", "vl", "dq", "bf16", "vbmi", "vnni")  # of AVX-512, that it is written in
FEATURES = [*(f"-mavx512{name}" for name in EXTENSIONS), "-mfma"]
COMPILERS = ("c++", "g++", "clang++")
LONGEST_COMPILATION = 120.0  # seconds, on a machine that is busy with other things
LONGEST_TRIAL = 20.0


class Tiles(enum.IntEnum):
    """What the library multiplies by: vectors, AMX's registers, or for tests the latter done in plain C++."""

    NONE = 0
    AMX = 1
    EMULATED = 2


SWITCH = "DIAFANO_ENGINE"


def available() -> bool:
    """Whether this machine has the engine; compiles it if it was not yet."""
    return library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where torch has to do."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no") or not processor_fits():
        return None
    for tiles in (Tiles.AMX, Tiles.NONE) if has_amx() else (Tiles.NONE,):
        try:
            return loaded(tiles)
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def multiplies_by() -> Tiles:
    """What the loaded library multiplies by."""
    found = library()
    return Tiles.NONE if found is None else Tiles(found.diafano_tiles())


def loaded(tiles: Tiles) -> ctypes.CDLL:
    """The library of that kind, compiled if it was not yet. Raises OSError or SubprocessError."""
    found = ctypes.CDLL(str(built(tiles)))
    if not found.diafano_tiles_permitted():
        raise OSError("this process is not given AMX's registers")
    return found


def processor_fits() -> bool:
    """Whether the processor has the instructions that the library is written in."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    has = capabilities()
    return all(has.get(f"avx512_{name}", False) for name in EXTENSIONS)


def has_amx() -> bool:
    return all(capabilities().get(name, False) for name in ("amx_tile", "amx_bf16"))


def capabilities() -> dict[str, bool]:
    """What torch has found out about the processor; nothing where it does not say."""
    return dict(torch.cpu.get_capabilities())


def built(tiles: Tiles) -> Path:
    """The compiled library's file, named after all that it is made of. Raises OSError or SubprocessError."""
    compiler = os.environ.get("CXX") or next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        raise OSError("no C++ compiler")
    flags = [*FLAGS, *FEATURES, *([f"-DDIAFANO_TILES={int(tiles)}"] if tiles else [])]
    text = b"".join(file.name.encode() + file.read_bytes() for file in sorted(SOURCES.iterdir()))
    digest = hashlib.sha256(text + repr((compiler, flags, sys.version_info[:2])).encode()).hexdigest()[:24]
    folder = cache_folder("engine")  # of the user's own, since whoever can write there can have code run
    file, refused = folder / f"{digest}.so", folder / f"{digest}.refused"
    if not file.exists() and not refused.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "library.so"
            compile_library([*compiler.split(), *flags], made)
            if tiles == Tiles.AMX and not tiles_work(made):
                refused.touch()  # a changed library or compiler is another attempt
            else:
                os.replace(made, file)
    if not file.exists():
        raise OSError("AMX's registers were tried and do not work")
    return file


def compile_library(compiler: list[str], library: Path) -> None:
    """Compile the sources, all at once, and link them.

    OpenMP is not linked: its functions are found in the library that torch has loaded, so that both share their
    threads. A second OpenMP would compete with torch's for the cores.
    """
    objects = []
    running = []
    for source in sorted(SOURCES.glob("*.cpp")):
        objects.append(str(library.parent / f"{source.stem}.o"))
        command = [*compiler, "-c", str(source), "-o", objects[-1]]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    codes = [process.wait(LONGEST_COMPILATION) for process in running]
    if any(codes):
        raise OSError(f"{compiler[0]} does not compile the engine")
    link = [*compiler, "-shared", *objects, "-o", str(library)]
    subprocess.run(link, check=True, capture_output=True, timeout=LONGEST_COMPILATION)


TRIAL = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # OpenMP
sys.exit(0 if ctypes.CDLL(sys.argv[2]).diafano_tiles_work() else 1)
"""


def tiles_work(library: Path) -> bool:
    """Whether it multiplies rightly by AMX's registers, tried in a process of its own.

    A processor that has the instructions may be seen through a virtual machine or a kernel that does not let them
    through: then that process dies, and not this one. Raises OSError or SubprocessError if it could not be tried.
    """
    command = [sys.executable, "-I", "-S", "-c", TRIAL, openmp(), str(library)]
    return subprocess.run(command, capture_output=True, timeout=LONGEST_TRIAL).returncode == 0


def openmp() -> str:
    """The file of the OpenMP library in this process, which is torch's."""
    for line in lines_of(Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")):
        file = line.split(maxsplit=5)[-1]
        if Path(file).name.startswith(("libgomp", "libomp", "libiomp")):
            return file
    raise OSError("torch has loaded no OpenMP library")
