"""Files that are broken, lie, or would run code: each is one sentence that names the file, and nothing is run."""

import collections
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from diafano.checkpoints.pickles import read_pickled_weights
from diafano.checkpoints.reading import read_file, read_weights
from diafano.errors import UserError

GOOD = save({"a": torch.arange(4.0), "b": torch.ones(2, 2)})
HEADER_BYTES = struct.unpack("<Q", GOOD[:8])[0]
HEADER: dict[str, Any] = json.loads(GOOD[8 : 8 + HEADER_BYTES])
DATA = GOOD[8 + HEADER_BYTES :]


def with_header(header: object, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lying(name: str, **changes: object) -> bytes:
    return with_header({**HEADER, name: {**HEADER[name], **changes}})


SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "shorter than a length": GOOD[:5],
    "length alone": GOOD[:8],
    "cut in the header": GOOD[: 8 + HEADER_BYTES // 2],
    "cut in the weights": GOOD[:-3],
    "without weights": GOOD[: 8 + HEADER_BYTES],
    "padded": GOOD + b"\0" * 16,
    "zeros": b"\0" * 64,
    "text": b"<html><body>404 not found</body></html>" * 4,
    "header longer than the file": struct.pack("<Q", 10**6) + GOOD[8:],
    "header of exabytes": struct.pack("<Q", 2**62) + GOOD[8:],
    "header length overflowing": struct.pack("<Q", 2**64 - 1) + GOOD[8:],
    "header shorter than it is": struct.pack("<Q", HEADER_BYTES - 9) + GOOD[8:],
    "header not JSON": with_header(b"{not json}"),
    "header not UTF-8": with_header(b'{"\xff\xfe": 1}'),
    "header a list": with_header([1, 2]),
    "header deeply nested": with_header(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "tensor without a shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, DATA[:16]),
    "unknown dtype": lying("a", dtype="F33"),
    "dtype too wide": lying("a", dtype="F64"),
    "shape too large": lying("a", shape=[40]),
    "shape overflowing": lying("a", shape=[2**33, 2**33]),
    "negative shape": lying("a", shape=[-4]),
    "fractional shape": lying("a", shape=[0.5]),
    "overlapping": lying("b", data_offsets=HEADER["a"]["data_offsets"]),
    "overlapping in part": lying("b", data_offsets=[8, 24]),
    "offsets beyond the file": lying("b", data_offsets=[10**9, 10**9 + 16]),
    "offsets backwards": lying("b", data_offsets=[32, 16]),
    "negative offsets": lying("b", data_offsets=[-16, 0]),
    "gap": with_header({**HEADER, "b": {**HEADER["b"], "data_offsets": [24, 40]}}, DATA + b"\0" * 8),
    "metadata not text": with_header({**HEADER, "__metadata__": {"a": 1}}),
    "one name twice": with_header(
        json.dumps(HEADER)[:-1].encode() + b', "a": ' + json.dumps(HEADER["b"]).encode() + b"}"
    ),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_a_bad_safetensors_file_is_one_sentence(kind: str, tmp_path: Path) -> None:
    refused(tmp_path / "bad.safetensors", SAFETENSORS[kind])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cut in the weights", "cut off or padded"),
        ("padded", "cut off or padded"),
        ("header longer than the file", "longer than the file"),
        ("overlapping", "overlap"),
        ("shape too large", "shape"),
        ("header not JSON", "JSON"),
    ],
)
def test_the_fault_is_said_in_words(kind: str, reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path / "bad.safetensors", SAFETENSORS[kind])


class Runs:
    """Unpickled by its own wish with `os.system`, or whatever else it is made with."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def repacked(data: bytes, *, compression: int = zipfile.ZIP_STORED, without: str = "\0", twice: str = "\0") -> bytes:
    """A torch archive in another packing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            if not name.endswith(without):
                new.writestr(name, old.read(name))
            if name.endswith(twice):
                with pytest.warns(UserWarning, match="Duplicate name"):
                    new.writestr(name, old.read(name))
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return buffer.getvalue()


TENSORS = {"a": torch.arange(4.0)}
ARCHIVE = saved(TENSORS)
LEGACY = saved(TENSORS, _use_new_zipfile_serialization=False)
PICKLES: dict[str, bytes] = {
    "empty": b"",
    "text": b"not a pickle",
    "one byte": b"\x80",
    "runs a command": saved({"a": Runs(os.system, "echo ran > ran")}),
    "runs a command, old format": saved({"a": Runs(os.system, "echo ran > ran")}, _use_new_zipfile_serialization=False),
    "runs eval": saved({"a": Runs(eval, "open('ran', 'w')")}),
    "imports": saved({"a": Runs(__import__, "antigravity")}),
    "reads attributes": saved({"a": Runs(getattr, "a", "upper")}),
    "opens a file": saved({"a": Runs(open, "ran", "w")}),
    "a whole module": saved(nn.Linear(1, 1)),
    "a global that weights have, of another module": saved({"a": collections.Counter()}),
    "plain pickle": pickle.dumps({"a": 1}, protocol=2),
    "plain pickle that runs": pickle.dumps({"a": Runs(os.system, "echo ran > ran")}, protocol=2),
    "newer protocol": pickle.dumps({"a": Runs(os.system, "echo ran > ran")}, protocol=4),
    "archive in the newer protocol": saved({"a": Runs(os.system, "echo ran > ran")}, pickle_protocol=4),
    "cut archive": ARCHIVE[: len(ARCHIVE) // 2],
    "cut at the end": ARCHIVE[:-30],
    "cut in the old format's weights": LEGACY[:-6],
    "cut in the old format's program": LEGACY[:40],
    "compressed": repacked(ARCHIVE, compression=zipfile.ZIP_DEFLATED),
    "without data.pkl": repacked(ARCHIVE, without="data.pkl"),
    "without its weights": repacked(ARCHIVE, without="data/0"),
    "an entry twice": repacked(ARCHIVE, twice="data.pkl"),
    "another archive": repacked(ARCHIVE, without="l").replace(b"archive", b"chevira"),
    "tar": tarred(),
    "a list": saved([torch.zeros(1)]),
    "a number": saved(5),
    "no tensors": saved({"a": 1, "state_dict": {}}),
    "repeated to gigabytes": saved({"a": torch.zeros(1).expand(2**40)}),
    "sparse": saved({"a": torch.eye(3).to_sparse()}),
    "safetensors": GOOD,
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_bad_pickle_is_one_sentence_and_runs_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "bad.ckpt", PICKLES[kind])
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("runs a command", "system"),
        ("runs a command, old format", "system"),
        ("runs eval", "eval"),
        ("a whole module", "torch.nn.modules.linear.Linear"),
        ("plain pickle that runs", "system"),
    ],
)
def test_a_refused_global_is_named(kind: str, named: str, tmp_path: Path) -> None:
    assert named in refused(tmp_path / "bad.ckpt", PICKLES[kind])


def test_no_bad_file_takes_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    for kinds, suffix in ((SAFETENSORS, ".safetensors"), (PICKLES, ".ckpt")):
        for content in kinds.values():
            refused(tmp_path / f"bad{suffix}", content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_good_pickles_are_read(tmp_path: Path) -> None:
    parameter = {"a": nn.Parameter(torch.arange(4.0)), "n": torch.ones(2, dtype=torch.bfloat16), "i": torch.arange(3)}
    for old in (True, False):
        state = collections.OrderedDict(parameter)
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not old)
        weights, notes = read_pickled_weights(tmp_path / "x.ckpt")
        assert notes == {"epoch": 3} and all(torch.equal(weights[name], parameter[name]) for name in parameter)
        assert not weights["a"].requires_grad


def test_a_trainers_notes_do_nothing(tmp_path: Path) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    content = saved({"a": torch.ones(2)})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = next(one for one in archive.namelist() if one.endswith("data.pkl"))
        data = archive.read(entry)
    # the mapping {"a": tensor} gets one more item, {ModelCheckpoint: {}}, before it ends
    more = b"X\x09\x00\x00\x00callbacks}c" + f"{name}\nModelCheckpoint\n".encode() + b"}ss"
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for one in old.namelist():
            new.writestr(one, data[:-1] + more + b"." if one == entry else old.read(one))
    (tmp_path / "x.ckpt").write_bytes(buffer.getvalue())
    weights, notes = read_pickled_weights(tmp_path / "x.ckpt")
    assert torch.equal(weights["a"], torch.ones(2)) and list(notes) == ["callbacks"]


@pytest.mark.parametrize(("stem", "file"), [("diffusion_pytorch_model",) * 2, ("model", "pytorch_model")])
def test_an_old_folders_pickles_are_read(stem: str, file: str, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / f"{file}.bin")
    assert torch.equal(read_weights(tmp_path, stem)["a"], TENSORS["a"])
    (tmp_path / f"{file}.bin").rename(tmp_path / f"{file}-1.bin")
    (tmp_path / f"{file}.bin.index.json").write_text(json.dumps({"weight_map": {"a": f"{file}-1.bin"}}))
    assert torch.equal(read_weights(tmp_path, stem)["a"], TENSORS["a"])


QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(position=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.integers(0, 8))
def test_any_change_of_a_safetensors_file_is_read_or_refused(
    tmp_path: Path, position: int, byte: int, cut: int
) -> None:
    damaged = bytearray(GOOD)
    damaged[position] = byte
    read_or_refused(tmp_path / "x.safetensors", bytes(damaged[: len(damaged) - cut]))


@QUIET
@given(data=st.data(), byte=st.integers(0, 255), old=st.booleans())
def test_any_change_of_a_pickle_is_read_or_refused(tmp_path: Path, data: st.DataObject, byte: int, old: bool) -> None:
    damaged = bytearray(LEGACY if old else ARCHIVE)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = byte
    read_or_refused(tmp_path / "x.ckpt", bytes(damaged))


def read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read_file(path)
    except UserError as error:
        assert "\n" not in str(error)


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_file(path)
    sentence = str(error.value)
    assert path.name in sentence and "\n" not in sentence and len(sentence) < 600
    return sentence
