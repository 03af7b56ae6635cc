"""Which library the CPU engine loads on which processor, how it comes about, and who computes where AMX is there."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diafano.engine import build as library
from diafano.engine import choice as faster
from diafano.engine import native_operations as by_library
from diafano.engine import torch_operations as by_torch
from diafano.engine.build import Tiles, available

needs_engine = pytest.mark.skipif(not available(), reason="no AVX-512 BF16 and VBMI, or no C++ compiler")


@pytest.mark.parametrize(
    "environment",
    [{"DIAFANO_ENGINE": "off"}, {"CXX": "no-such-compiler"}, {"CXX": "false"}, {"XDG_CACHE_HOME": "/dev/null"}],
    ids=lambda environment: " ".join(f"{name}={value}" for name, value in environment.items()),
)
def test_there_need_be_no_library(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ({"XDG_CACHE_HOME": str(tmp_path)} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(library, "processor_fits", lambda: True)
    assert library.library.__wrapped__() is None


@pytest.mark.parametrize("lacks", ["avx512_bf16", "avx512_vbmi", "avx512_vnni", "avx512_f"])
def test_other_processors_are_left_to_torch(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_bf16", "avx512_vbmi", "avx512_vnni")
    every = dict.fromkeys(names, True)
    monkeypatch.setattr(library, "platform", SimpleNamespace(system=lambda: "Linux", machine=lambda: "x86_64"))
    for capabilities, fits in [(every, True), (every | {lacks: False}, False)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert library.processor_fits() is fits


@needs_engine
def test_a_processor_that_keeps_amx_from_us_multiplies_by_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the instructions are not there at all: who tries them dies. It is tried once."""
    if library.has_amx():
        pytest.skip("this processor has AMX")
    made: list[Path] = []
    compile_library = library.compile_library
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "has_amx", lambda: True)
    monkeypatch.setattr(library, "compile_library", lambda *given: (made.append(given[1]), compile_library(*given)))
    for _ in range(2):
        found = library.library.__wrapped__()
        assert found is not None and found.diafano_tiles() == Tiles.NONE
    assert len(made) == 2
    with pytest.raises(OSError, match="AMX's registers were tried"):
        library.built(Tiles.AMX)


@needs_engine
def test_tiles_are_tried_in_a_process_of_their_own() -> None:
    assert library.tiles_work(library.built(Tiles.EMULATED))
    assert not library.tiles_work(library.built(Tiles.NONE))  # has no such function: whatever goes wrong there


@needs_engine
@pytest.mark.parametrize("share", [0.5, 1.5])
def test_with_amx_the_faster_one_is_found_out_once(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def measured() -> faster.Shares:
        taken.append("measured")
        return faster.Shares(linear=0.9, convolution=share, attention=1.0)

    monkeypatch.setattr(faster, "multiplies_by", lambda: Tiles.AMX)
    monkeypatch.setattr(faster, "built", lambda tiles: tmp_path / "library.so")
    monkeypatch.setattr(faster, "measured", measured)
    monkeypatch.setattr(faster, "shares", faster.shares.__wrapped__)
    find = faster.faster.__wrapped__
    for _ in range(2):  # as in two processes
        assert find("convolution") is (by_library if share < 1 else by_torch)
        assert find("linear") is find("attention") is by_library
    assert taken == ["measured"]


@needs_engine
def test_both_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, str]] = []
    for by in (by_library, by_torch):
        for name in ("linear", "geglu", "convolution", "attention"):
            monkeypatch.setattr(by, name, lambda *_, by=by.__name__, name=name, **__: called.append((by, name)))
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(called)))
    assert faster.measured() == faster.Shares(linear=1.0, convolution=1.0, attention=1.0)
    assert {name for _, name in called} == {"linear", "geglu", "convolution", "attention"}
    assert called.count(("diafano.engine.native_operations", "attention")) == faster.RUNS + 1


@needs_engine
def test_the_library_is_compiled_once(tmp_path: Path) -> None:
    program = (
        "import torch; from diafano.engine import build; assert build.available();"
        "file, = build.cache_folder('engine').iterdir(); print(file.stat().st_mtime_ns)"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": __import__("os").environ["PATH"]}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"PYTHONPATH": str(Path(library.__file__).parents[2])},
        )
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert (tmp_path / "diafano" / "engine").stat().st_mode & 0o077 == 0
