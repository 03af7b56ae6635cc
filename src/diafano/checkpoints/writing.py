"""Weights of a module into safetensors files, in shards where they are large; whole folders into place at once."""

import ctypes
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from diafano.errors import UserError
from diafano.files import check_folder, check_writable, cut, refusal, whole_file, write_text

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
_AT_WORKING_DIRECTORY, _EXCHANGE = -100, 2
"""Linux's AT_FDCWD and RENAME_EXCHANGE."""
MAX_SHARD_BYTES = 10 * 1000**3
"""diffusers' own limit; a model of the size of Stable Diffusion stays in one file."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented by two, as both libraries write it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_weights(
    weights: Mapping[str, Tensor],
    folder: Path,
    stem: str,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """`weights` -> ``stem.safetensors``, or numbered shards of it and ``stem.safetensors.index.json``.

    With `dtype` every tensor is converted. A shard has at most `max_shard_bytes`, unless one tensor alone has more.
    """
    if max_shard_bytes < 1:
        raise UserError(f"shards of {max_shard_bytes} bytes hold nothing: use 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: storable(name, tensor, dtype) for name, tensor in weights.items()}
    shards = _split(stored, max_shard_bytes)
    if len(shards) == 1:
        save_tensors(stored, folder / f"{stem}.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        save_tensors({name: stored[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in stored.values())},
            "weight_map": dict(sorted(weight_map.items())),
        },
    )


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file that is whole or not there, with the permissions of any other new file.

    Raises OSError where the operating system refuses it.
    """
    with whole_file(path) as unfinished:
        try:
            save_file(tensors, unfinished, metadata={"format": "pt"} if metadata is None else metadata)
        except SafetensorError as error:  # the library's own, which has the system's number in its text
            number = _SYSTEM_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        unfinished.chmod(0o666 & ~umask())  # safetensors closes it to everyone else


def check_in_place(target: Path, *, marker: str) -> None:
    """Raise UserError unless `folder_in_place` can put a folder there: to be asked before the work, not after it."""
    check_folder(target)
    real = Path(os.path.realpath(target))
    try:
        if real.is_dir() and any(real.iterdir()) and not (real / marker).is_file():
            raise UserError(f"{target} holds other files and no {marker}: give an empty or a new folder")
        if not real.parent.is_dir():
            raise UserError(f"there is no folder {real.parent} to write {real.name} into: make it first")
        check_writable(real.parent)
    except OSError as error:
        raise UserError(f"cannot write: {refusal(error, real.parent)}") from error


@contextmanager
def folder_in_place(target: Path, *, marker: str) -> Iterator[Path]:
    """An empty folder beside `target` to write into, which takes its place when the block ends without an error.

    An existing target is replaced only if it holds the file `marker` (or nothing); what else lies in it is kept. Where
    it is a link, the link stays. After an error everything is as it was. On Linux there is no moment at which neither
    the old folder nor the new one has the name.
    """
    check_in_place(target, marker=marker)
    real = Path(os.path.realpath(target))
    staging = Path()
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{cut(real.name, 200)}-", dir=real.parent))
        staging.chmod(0o777 & ~umask())  # mkdtemp's is closed to everyone else
        yield staging
        if real.is_dir():
            _keep_other_files(real, staging)
            _replace_folder(real, staging)
        else:
            staging.rename(real)
    except OSError as error:
        raise UserError(f"cannot write: {refusal(error, target)}") from error
    finally:
        if staging.name:
            shutil.rmtree(staging, ignore_errors=True)  # the old one, where they were exchanged


def _replace_folder(target: Path, staging: Path) -> None:
    """`staging` gets the name of `target`; afterwards the old folder has the other's name, or none."""
    if _exchanged(target, staging):
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{cut(target.name, 200)}-old-", dir=target.parent))
    try:
        target.rename(retired / target.name)
        staging.rename(target)
    finally:
        if not os.path.lexists(target):
            (retired / target.name).rename(target)
        shutil.rmtree(retired, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two have each other's names now, which not every system can do in one step."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_WORKING_DIRECTORY, names[0], _AT_WORKING_DIRECTORY, names[1], _EXCHANGE) == 0)


def _keep_other_files(old: Path, new: Path) -> None:
    """What is in the old folder alone, copied; links stay links."""
    for entry in old.iterdir():
        if os.path.lexists(new / entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def umask() -> int:
    """The permissions that new files are denied; asking for it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def storable(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor as it is written: on the CPU, contiguous, in `dtype` (None: its own), which must hold its values."""
    stored = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
    if stored.dtype == torch.float16 and tensor.dtype != torch.float16 and not bool(torch.isfinite(stored).all()):
        raise UserError(f"{name} has values that float16 cannot hold: save as bfloat16 or float32")
    return stored


def _split(weights: Mapping[str, Tensor], max_shard_bytes: int) -> list[list[str]]:
    """Names in their order, cut where the next tensor would make a shard too long."""
    shards: list[list[str]] = [[]]
    length = 0
    for name, tensor in weights.items():
        if shards[-1] and length + tensor.nbytes > max_shard_bytes:
            shards.append([])
            length = 0
        shards[-1].append(name)
        length += tensor.nbytes
    return shards
