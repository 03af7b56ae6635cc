"""Waiting threads sleep, unless the user says otherwise or it is too late."""

import subprocess
import sys

import pytest

from diafano import threads

# libgomp prints the settings that it has read while it is loaded.
LOAD_TORCH = "from diafano.threads import wait_asleep; wait_asleep(); import torch"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp")
def test_openmp_takes_the_setting() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOAD_TORCH], env={"OMP_DISPLAY_ENV": "true"}, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr


def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert threads.wait_asleep() is False
    assert threads.os.environ["OMP_WAIT_POLICY"] == "active"


def test_after_torch_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", threads)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert threads.wait_asleep() is False
    assert "OMP_WAIT_POLICY" not in threads.os.environ
