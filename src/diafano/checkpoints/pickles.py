"""Weights from pickles (``.ckpt``, ``.bin``, ``.pt``) without running what they say.

A pickle is a program. Before torch opens the file, its program is read opcode by opcode without being run, and every
global that it names must be in `ALLOWED`; then torch builds the tensors with ``weights_only``, which has an allow-list
of its own. Files that torch does not write in this way (compressed archives, the tar files of before 2018) are refused.
"""

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diafano.checkpoints.opening import check_content
from diafano.errors import UserError

SUFFIXES = (".ckpt", ".bin", ".pt", ".pth")

ALLOWED = re.compile(
    r"collections\.OrderedDict"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(Float|Half|BFloat16|Double|Char|Byte|Short|Int|Long|Bool)Storage"
    r"|torch\.storage\.(UntypedStorage|TypedStorage)"
    r"|torch\.(Size|float16|float32|float64|bfloat16|int8|uint8|int16|int32|int64|bool)"
    r"|_codecs\.encode|(__builtin__|builtins)\.set"
)
# Training programs leave their notes beside the weights. These names become classes that do and keep nothing.
INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
PARAMETERS = "torch.nn.modules.container.ParameterDict"
"""The first textual inversions were such objects; it becomes a class that has its `parameters` and nothing else."""
MAXIMUM_PROGRAM = 64 * 2**20
"""Bytes of a pickle's program; the weights are not in it, and that of a whole Stable Diffusion has 300 kB."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First number in the files that torch wrote before 1.6."""
LEGACY_PROGRAMS = 5  # magic number, protocol, system, the object, the keys of its storages


def read_pickle(path: Path) -> dict[str, Any]:
    """The mapping in a pickle of weights, tensors mapped into memory where torch's format allows it.

    Raises UserError, one sentence, for what is no such file, is broken, or names a global that is not allowed.
    """
    check_content(path, "pickle")
    try:
        is_archive = zipfile.is_zipfile(path)
        globals_named = _archive_globals(path) if is_archive else _legacy_globals(path)
        refused = sorted(
            {name for name in globals_named if not ALLOWED.fullmatch(name) and name not in (*INERT, PARAMETERS)}
        )
        if refused:
            raise UserError(
                f"{path} is a pickle that would run {', '.join(refused[:3])}, which weights do not need:"
                " nothing was run, use a .safetensors file of the model"
            )
        with torch.serialization.safe_globals([*(_inert(name) for name in INERT), (_Parameters, PARAMETERS)]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except UserError:
        raise
    except Exception as error:  # broken pickles raise whatever the opcode that they break at raises
        reason = re.sub(r"\s+", " ", str(error)).strip()[:160]
        raise UserError(
            f"{path} cannot be read as torch weights ({reason or type(error).__name__}): fetch it again"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name: give a checkpoint of a model")
    named = {str(name): value for name, value in content.items()}
    if "layer_structure" in named and not isinstance(named["layer_structure"], Tensor):
        raise UserError(f"{path} is a hypernetwork of A1111, which cannot be read: use a LoRA or a textual inversion")
    return named


def read_pickled_weights(
    path: Path, under: Sequence[str] = ("state_dict",)
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and what else the file holds; trainers put the former `under` a name, the first wins."""
    content = read_pickle(path)
    inner = next((content[name] for name in under if isinstance(content.get(name), Mapping)), None)
    notes = {name: value for name, value in content.items() if not isinstance(value, Tensor) and name not in under}
    named: Mapping[Any, Any] = {**inner, **content} if isinstance(inner, Mapping) else content
    weights = {str(name): value.detach() for name, value in named.items() if isinstance(value, Tensor)}
    if not weights:
        deeper = [name for name, value in notes.items() if isinstance(value, Mapping) and value]
        has = (
            f"has none of its own nor under {' or '.join(under)}, only {', '.join(deeper[:3])}"
            if deeper
            else "holds no tensors"
        )
        raise UserError(f"{path} {has}: give a checkpoint of a model")
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise UserError(f"{path} has {name} in a sparse or quantized form: only plain tensors are known")
        if tensor.nbytes > tensor.untyped_storage().nbytes():  # a few bytes repeated into gigabytes
            raise UserError(f"{path} says that {name} has {tensor.nbytes} bytes and holds fewer: fetch it again")
    return weights, notes


def _archive_globals(path: Path) -> set[str]:
    """The globals named in a zip archive, torch's format since 1.6."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(f"{path} is a compressed archive, which torch never writes: fetch it again")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise UserError(f"{path} is an archive whose entries overlap: fetch it again")
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise UserError(f"{path} is an archive with two entries of one name: fetch it again")
        programs = [entry for entry in entries if entry.filename.rpartition("/")[2].lower().endswith(".pkl")]
        if not any(entry.filename.endswith("data.pkl") for entry in programs):
            raise UserError(f"{path} is a zip archive without data.pkl, so not one of torch's: give a checkpoint")
        found: set[str] = set()
        for entry in programs:
            if entry.file_size > MAXIMUM_PROGRAM:
                raise UserError(f"{path} has a pickle program of {entry.file_size} bytes: weights need far less")
            found |= _globals(io.BytesIO(archive.read(entry)), path)
        return found


def _legacy_globals(path: Path) -> set[str]:
    """The globals named in the programs at the start of a file of torch's before 1.6."""
    with path.open("rb") as file:
        if file.read(1) != b"\x80":
            raise UserError(f"{path} is neither a torch archive nor a pickle: give a checkpoint, or fetch it again")
        file.seek(0)
        found: set[str] = set()
        for index in range(LEGACY_PROGRAMS):
            found |= _globals(file, path, magic=index == 0)
        return found


def _globals(file: BinaryIO, path: Path, *, magic: bool = False) -> set[str]:
    """The globals that one pickle program names; the file is left at its end."""
    found: set[str] = set()
    numbers: list[object] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", ".", 1))
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            # torch writes protocol 2, in which names stand in the open
            raise UserError(
                f"{path} is a pickle of a kind that torch does not write ({opcode.name}), whose globals cannot be"
                " told before it runs: nothing was run, use a .safetensors file of the model"
            )
        if opcode.name in ("LONG1", "LONG4", "INT", "LONG"):
            numbers.append(argument)
    if magic and LEGACY_MAGIC not in numbers:
        names = f", which would run {', '.join(sorted(found)[:3])}" if found else ""
        raise UserError(f"{path} is a pickle but not one of torch's{names}: nothing was run, use a .safetensors file")
    return found


def _inert(name: str) -> type:
    """A class of that name that takes anything and keeps nothing."""
    module, _, qualified = name.rpartition(".")

    def ignore(self: object, *_: object, **__: object) -> None:
        return None

    return type(qualified, (), {"__module__": module, "__init__": ignore, "__setstate__": ignore})


class _Parameters:
    """What is left of a ParameterDict."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.parameters = dict(state.get("_parameters", {}))


def is_pickle(path: Path) -> bool:
    """Whether a file's name says that it is one of torch's pickles."""
    return path.suffix.lower() in SUFFIXES
