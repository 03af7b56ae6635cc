"""Files that are whole, through links too; what is said of names and refusals."""

import errno
import sys
from pathlib import Path

import pytest

from diafano.errors import UserError
from diafano.files import check_file, check_folder, reason, refusal, whole_file, write_text
from diafano.request.fields import _text


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/real").write_text("old")
    for name, text in (("real", "new"), ("not there yet", "first")):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / "far" / name)
        check_file(link)
        write_text(link, text)
        assert link.is_symlink() and (tmp_path / "far" / name).read_text() == text
    assert {path.name for path in (tmp_path / "far").iterdir()} == {"real", "not there yet"}


def test_a_link_into_no_folder_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent" / "file")
    with pytest.raises(UserError, match="absent"):
        check_file(tmp_path / "link")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "link") as unfinished:
        unfinished.touch()
    assert (tmp_path / "link").is_symlink()


def test_a_name_without_end_is_not_said_to_its_end() -> None:
    said = refusal(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000))
    assert "5000 letters" in said and len(said) < 500


def test_reasons_are_words() -> None:
    assert reason(PermissionError(errno.EACCES, "Permission denied", "x")) == "Permission denied"
    assert reason(ValueError("why")) == "why"


def test_a_folders_name_that_something_else_has_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("absent")
    for name, said in (("file", "is a file"), ("link", "links to what is not there")):
        with pytest.raises(UserError, match=said):
            check_folder(tmp_path / name)


def test_what_to_do_about_bytes_depends_on_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match=r"set LC_ALL=C\.UTF-8"):
        _text("a \udcf0 cat")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "utf-8")
    with pytest.raises(UserError, match="type it again"):
        _text("a \udcf0 cat")
