"""The engine's C++ library: compiled when it is first needed, in about two seconds, and kept in the user's cache.

Nothing is asked of the user: without a compiler, or on another processor, there is no library and torch computes.
The environment variable DIAFANO_ENGINE=off leaves it out.
"""

import ctypes
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

SOURCES = Path(__file__).parent / "native"
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-fopenmp", "-fvisibility=hidden"]
FEATURES = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mavx512vbmi", "-mfma"]
COMPILERS = ("c++", "g++", "clang++")
LONGEST_COMPILATION = 120.0  # seconds, on a machine that is busy with other things

SWITCH = "DIAFANO_ENGINE"


def available() -> bool:
    """Whether this machine has the engine; compiles it if it was not yet."""
    return library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where torch has to do."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no") or not processor_fits():
        return None
    try:
        return ctypes.CDLL(str(built()))
    except (OSError, subprocess.SubprocessError):
        return None


def processor_fits() -> bool:
    """Whether the processor has the instructions that the library is written in, and better ones are not to be had.

    With AMX, torch's own products are several times as fast as the library's.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    needed = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "avx512_vbmi")
    return all(has.get(name, False) for name in needed) and not has.get("amx_bf16", False)


def cache_folder() -> Path:
    """Where compiled code is kept: a folder of the user's own, since whoever can write there can have code run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diafano" / "engine"


def built() -> Path:
    """The compiled library's file, named after all that it is made of. Raises OSError or SubprocessError."""
    compiler = os.environ.get("CXX") or next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        raise OSError("no C++ compiler")
    text = b"".join(file.name.encode() + file.read_bytes() for file in sorted(SOURCES.iterdir()))
    digest = hashlib.sha256(text + repr((compiler, FLAGS, FEATURES, sys.version_info[:2])).encode()).hexdigest()[:24]
    folder = cache_folder()
    file = folder / f"{digest}.so"
    if not file.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            compile_library(compiler, Path(scratch))
            os.replace(Path(scratch) / "library.so", file)
    return file


def compile_library(compiler: str, folder: Path) -> None:
    """Compile the sources, all at once, and link them to folder/library.so.

    OpenMP is not linked: its functions are found in the library that torch has loaded, so that both share their
    threads. A second OpenMP would compete with torch's for the cores.
    """
    objects = []
    running = []
    for source in sorted(SOURCES.glob("*.cpp")):
        objects.append(str(folder / f"{source.stem}.o"))
        command = [*compiler.split(), *FLAGS, *FEATURES, "-c", str(source), "-o", objects[-1]]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    codes = [process.wait(LONGEST_COMPILATION) for process in running]
    if any(codes):
        raise OSError(f"{compiler} does not compile the engine")
    link = [*compiler.split(), "-shared", *objects, "-o", str(folder / "library.so")]
    subprocess.run(link, check=True, capture_output=True, timeout=LONGEST_COMPILATION)
