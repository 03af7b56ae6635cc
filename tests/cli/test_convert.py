"""`diafano convert`, as a user runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diafano.checkpoints.diffusers import load_folder


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diafano", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_model_is_copied_in_half_precision_and_in_shards(tiny_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "half"
    done = convert(tiny_folder, target, "--shard", 1)
    assert (done.returncode, done.stdout.strip()) == (0, str(target)), done.stderr
    before, after = load_folder(tiny_folder), load_folder(target)
    for name, tensor in after.unet.state_dict().items():
        assert torch.equal(tensor, before.unet.state_dict()[name].half().float())
    assert after.card == before.card


def test_what_cannot_be_converted_is_one_sentence_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "none", tmp_path / "t"), (tiny_folder, tmp_path / "t", "--dtype", "float8")):
        done = convert(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "t").exists()


LIMITED = """
import resource, sys
from diafano.cli import main as cli
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))  # a longer write fails, as on a full disk
sys.exit(cli.run(["convert", *sys.argv[1:]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits files")
def test_a_full_disk_leaves_the_old_model(tiny_folder: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(tiny_folder, tmp_path / "old"))
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    command = [sys.executable, "-c", LIMITED, str(tiny_folder), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot write" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
