"""`diafano convert`, as a user runs it."""

import subprocess
import sys
from pathlib import Path

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
