"""Waiting threads sleep, unless the user says otherwise or it is too late."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diafano.engine import threads

# libgomp prints the settings that it has read while it is loaded.
IDLE = (
    "import os; os.environ['OMP_WAIT_POLICY'] = 'active'; import diafano.engine.threads as threads; "  # which imports
    "del os.environ['OMP_WAIT_POLICY']; threads.others_compute = lambda: False; "  # diafano, and that decides
)
LOAD_TORCH = "from diafano.engine.threads import wait_asleep; wait_asleep(); import torch"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp")
def test_openmp_takes_the_setting() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOAD_TORCH], env={"OMP_DISPLAY_ENV": "true"}, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr


@pytest.mark.parametrize(
    ("running", "turns"),
    [("procs_running 1\n", str(threads.TURNS)), ("procs_running 3\n", None), ("", None), (None, None)],
)
def test_threads_of_an_idle_machine_look_for_work_first(
    running: str | None, turns: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if running is not None:
        (tmp_path / "stat").write_text("cpu 1 2 3\n" + running)
    monkeypatch.setattr(threads, "STATISTICS", tmp_path / "stat")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back in any case
        monkeypatch.delenv(name)
    assert threads.wait_asleep() is True
    assert os.environ.get("GOMP_SPINCOUNT") == turns


def test_what_computes_for_a_moment_only_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [3, 2, 1]
    monkeypatch.setattr(threads, "_running", lambda: seen.pop(0))
    assert not threads.others_compute()
    assert not seen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp")
def test_openmp_takes_the_number_of_turns() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IDLE + LOAD_TORCH],
        env={"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{threads.TURNS}'" in result.stderr


def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert threads.wait_asleep() is False
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_after_torch_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", threads)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert threads.wait_asleep() is False
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize(("first", "policy"), [("diafano", "passive"), ("torch", "None")])
def test_whoever_imports_diafano_before_torch_has_it(first: str, policy: str) -> None:
    code = f"import {first}, os, diafano; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == policy
