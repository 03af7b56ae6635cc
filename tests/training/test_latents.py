"""What training keeps to save work: read where it is whole, made again where it is not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diafano.errors import UserError
from diafano.training.latents import kept
from helpers import told


def test_what_is_kept_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "x.safetensors"
    assert torch.equal(kept("x", path, lambda: torch.ones(2)), torch.ones(2))
    assert torch.equal(kept("x", path, lambda: pytest.fail("it was made again")), torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"\0" * 7, bytes(range(256)) * 8])
def test_what_is_broken_is_made_again(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with told(r"x\.safetensors is broken .*: it is made again"):
        assert torch.equal(kept("x", path, lambda: torch.ones(2)), torch.ones(2))
    assert torch.equal(kept("x", path, lambda: torch.zeros(2)), torch.ones(2))


def test_what_cannot_be_kept_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: dict[str, Tensor], path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("diafano.training.latents.save_tensors", full)
    with pytest.raises(UserError, match=r"x\.safetensors.*No space left.*make room"):
        kept("x", tmp_path / "x.safetensors", lambda: torch.ones(2))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder"):
        kept("x", tmp_path / "folder", lambda: torch.ones(2))
