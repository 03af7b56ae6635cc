"""Ctrl-C before the commands are there, and after all is done."""

import os
import signal
from collections.abc import Iterator

import pytest

from diafano import __main__ as program


@pytest.fixture
def heard() -> Iterator[None]:
    """The handler of Ctrl-C as it was, afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_outside_of_the_commands_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("diafano.cli.main.run", interrupted)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 130
    assert capfd.readouterr().err == "diafano: interrupted\n"


@pytest.mark.usefixtures("heard")
def test_ctrl_c_after_all_is_done_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diafano.cli.main.run", lambda: 0)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    signal.raise_signal(signal.SIGINT)
