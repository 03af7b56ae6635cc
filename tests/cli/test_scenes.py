"""`diafano scenes`, as a user runs it."""

import subprocess
import sys
from pathlib import Path

from diafano.training.data.folder import PictureFolder


def scenes(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diafano", "scenes", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_folder_is_one_that_training_reads(tmp_path: Path) -> None:
    done = scenes(tmp_path / "emoji", "--count", 12, "--size", 32, "--shipped")
    assert done.returncode == 0, done.stderr
    folder = PictureFolder(tmp_path / "emoji", 32)
    assert len(folder) == 12
    assert len({example.caption for example in map(folder.example, range(12))}) > 6
    again = scenes(tmp_path / "again", "--count", 12, "--size", 32, "--shipped")
    assert again.returncode == 0
    for file in sorted((tmp_path / "emoji").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_font_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = scenes(tmp_path / "emoji", "--font", tmp_path / "none.ttf")
    assert done.returncode == 2
    assert "none.ttf" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "emoji").exists()


def test_other_peoples_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = scenes(tmp_path, "--count", 2, "--shipped")
    assert done.returncode == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
