"""How far a command is, where nobody looks at a bar: a line now and then."""

import re

import pytest

from diafano.cli import progress
from diafano.cli.progress import bar


@pytest.mark.parametrize(("silence", "lines"), [(0.0, 4), (3600.0, 0)])
def test_lines_where_there_is_no_terminal(
    silence: float, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENCE", silence)
    with bar() as shown:
        shown.begin("drawing", 5)
        for _ in range(5):
            shown.advance()
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == lines
    assert all(re.fullmatch(r"drawing: [1-4] of 5, \d+:\d\d left", line) for line in error.splitlines())


def test_evaluating_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from diafano.cli import main as cli

    monkeypatch.setattr(progress, "SILENCE", 0.0)
    assert cli.run(["evaluate", "--prompts", "3", "--steps", "1", "--guidance", "1"]) == 0
    assert "drawing: 1 of 3" in capsys.readouterr().err
