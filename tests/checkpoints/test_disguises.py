"""Files under the name of weights that are something else, and files that may not be read: every reader says what."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from diafano.checkpoints import opening
from diafano.checkpoints.controlnet import load_controlnet
from diafano.checkpoints.lora import Loras
from diafano.checkpoints.quantized import check_plain
from diafano.checkpoints.reading import read_json, read_weights
from diafano.checkpoints.recognise import recognise
from diafano.checkpoints.textual_inversion import read_embedding
from diafano.checkpoints.tiny_decoder import load_tiny_decoder
from diafano.checkpoints.vae import find_vae
from diafano.errors import UserError
from diafano.stable_diffusion import StableDiffusion

Reader = Callable[[StableDiffusion, Path], Any]
READERS: dict[str, Reader] = {
    "checkpoint": lambda _, path: recognise(path),
    "LoRA": lambda model, path: Loras(model).add(path),
    "textual inversion": lambda _, path: read_embedding(path),
    "autoencoder": lambda _, path: find_vae(path),
    "ControlNet": lambda model, path: load_controlnet(path, model),
    "tiny decoder": lambda model, path: load_tiny_decoder(path, model),
}


def torchs(path: Path, old: bool) -> bytes:
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=not old)
    return path.read_bytes()


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", save({"a": torch.ones(2)}))
    return path.read_bytes()


DISGUISES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "LFS": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n",
        "Git LFS pointer",
    ),
    "web page": (lambda _: b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>", "a web page"),
    "web page with a mark": (lambda _: b"\xef\xbb\xbf<html><body>" + b"x" * 9999, "a web page"),
    "XML": (lambda _: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "answer of a server in XML"),
    "JSON": (lambda _: b'{"error": "Invalid username or password."}', "a JSON text"),
    "text": (lambda _: b"Access to model runwayml is restricted.", "a text that begins 'Access to model"),
    "empty": (lambda _: b"", "empty"),
    "zeros": (lambda _: bytes(4096), "not finished"),
    "GGUF": (lambda _: b"GGUF\x03\0\0\0" + bytes(99), "a GGUF file"),
    "Keras": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "numpy": (lambda _: b"\x93NUMPY\x01\0" + bytes(99), "numpy"),
    "picture": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
    "gzip": (lambda _: b"\x1f\x8b\x08" + bytes(99), "compressed archive"),
}
RENAMED: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "zip of torch's": (".safetensors", lambda path: torchs(path, False), r"a pickle of torch's.*rename it to x\.ckpt"),
    "old pickle": (".safetensors", lambda path: torchs(path, True), r"a pickle of torch's.*rename it to x\.ckpt"),
    "zip": (".safetensors", zipped, "a zip archive: unpack"),
    "safetensors": (".ckpt", lambda _: save({"a": torch.ones(2)}), r"a safetensors file.*rename it to x\.safetensors"),
}


def refused(reader: str, model: StableDiffusion, path: Path) -> str:
    with pytest.raises(UserError) as error:
        READERS[reader](model, path)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("reader", READERS)
def test_what_a_file_is_is_said_by_every_reader(tiny_model: StableDiffusion, tmp_path: Path, reader: str) -> None:
    for suffix in (".safetensors", ".pt"):
        for make, what in DISGUISES.values():
            path = tmp_path / f"x{suffix}"
            path.write_bytes(make(path))
            said = refused(reader, tiny_model, path)
            assert what in said and "missing" not in said
    for suffix, make, match in RENAMED.values():
        content = make(tmp_path / "made")
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=match):
            READERS[reader](tiny_model, path)


@pytest.mark.parametrize("reader", READERS)
def test_what_may_not_be_read_is_not_called_missing(
    tiny_model: StableDiffusion, tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a": torch.ones(2)}))
    usual = Path.open

    def closed(self: Path, *arguments: Any, **options: Any) -> Any:  # root may read everything
        if self == path:
            raise PermissionError(13, "Permission denied")
        return usual(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", closed)
    assert "may not be read (permission denied)" in refused(reader, tiny_model, path)
    monkeypatch.undo()

    def hidden(self: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", hidden)
    assert "may not be read (permission denied)" in refused(reader, tiny_model, path)


def test_folders_files_and_others_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        opening.is_file(tmp_path / "pipe.safetensors")
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(UserError, match="is a folder, not a file"):
        opening.check_content(tmp_path / "x.safetensors", "safetensors")
    for name in ("absent", "nul\0", "x/" * 3000):
        assert not (opening.is_file(tmp_path / "y" / name) if len(name) < 99 else False)
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        opening.is_file(tmp_path / ("n" * 300))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_json(tmp_path / "config.json")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="may not be looked into"):
        read_weights(tmp_path, "model")


def test_a_good_file_is_never_taken_for_something_else(tmp_path: Path) -> None:
    """Whatever the length of its header, the first bytes of which can look like anything."""
    for length in range(1, 400, 7):
        save_file({"a" * length: torch.ones(1)}, tmp_path / "x.safetensors")
        opening.check_content(tmp_path / "x.safetensors", "safetensors")
    for old in (True, False):
        (tmp_path / "x.ckpt").write_bytes(torchs(tmp_path / "made", old))
        opening.check_content(tmp_path / "x.ckpt", "pickle")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("scaled_fp8", "scaled 8-bit"),
        ("model.diffusion_model.out.2.scale_weight", "scaled 8-bit"),
        ("x.weight_scale", "scaled 8-bit"),
        ("x.comfy_quant", "scaled 8-bit"),
        ("x.weight.absmax", "bitsandbytes"),
        ("x.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("x.SCB", "bitsandbytes"),
        ("x.qweight", "packed integers"),
    ],
)
def test_weights_that_are_scaled_or_packed_are_named(name: str, what: str) -> None:
    with pytest.raises(UserError, match=f"{what}.*cannot be read yet"):
        check_plain(["a.weight", name], Path("x.safetensors"))
    check_plain(["quant_conv.weight", "x.scale", "norm.weight", "scale_factor"], Path("x.safetensors"))
