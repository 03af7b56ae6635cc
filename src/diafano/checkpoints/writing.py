"""Weights of a module into safetensors files, in shards where they are large; whole folders into place at once."""

import json
import os
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

MAX_SHARD_BYTES = 10 * 1000**3
"""diffusers' own limit; a model of the size of Stable Diffusion stays in one file."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented by two, as both libraries write it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    """A safetensors file, with the permissions of any other new file."""
    save_file(tensors, path, metadata={"format": "pt"} if metadata is None else metadata)
    path.chmod(0o666 & ~umask())  # safetensors closes it to everyone else


@contextmanager
def folder_in_place(target: Path, *, marker: str) -> Iterator[Path]:
    """An empty folder beside `target` to write into, which takes its place when the block ends without an error.

    An existing target is replaced only if it holds the file `marker` (or nothing); what else lies in it is kept.
    After an error everything is as it was.
    """
    target = Path(os.path.abspath(target))
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent} to write {target.name} into: make it first")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: give the path of a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / marker).is_file():
        raise UserError(f"{target} holds other files and no {marker}: give an empty or a new folder")
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o777 & ~umask())  # mkdtemp's is closed to everyone else
        yield staging
        if target.is_dir():
            _keep_other_files(target, staging)
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(retired / target.name)
            try:
                staging.rename(target)
            except OSError:
                (retired / target.name).rename(target)
                raise
            finally:
                shutil.rmtree(retired, ignore_errors=True)
        else:
            staging.rename(target)
    except (SafetensorError, OSError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(f"{target} cannot be written ({error}): make room, or choose another place") from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _keep_other_files(old: Path, new: Path) -> None:
    for entry in old.iterdir():
        if (new / entry.name).exists():
            continue
        if entry.is_dir():
            shutil.copytree(entry, new / entry.name)
        else:
            shutil.copy2(entry, new / entry.name)


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
