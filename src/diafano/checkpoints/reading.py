"""Weights from safetensors files into a module, strictly: nothing missing, nothing left over, every shape right.

Files are mapped into memory, not read: a tensor costs memory only once it is used or converted. Pickles, which old
folders have, go through the allow-list of `pickles`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diafano.checkpoints.differences import compare
from diafano.checkpoints.opening import check_content, is_file, is_folder, unreadable
from diafano.checkpoints.pickles import is_pickle, read_pickled_weights
from diafano.checkpoints.quantized import check_fractions, check_plain
from diafano.engine.devices import fastest_layout
from diafano.engine.memory import MappedFiles
from diafano.errors import UserError, note
from diafano.files import read_text

VARIANTS = ("", "fp16")
"""Diffusers' names for copies of the same weights: the plain one, and ``model.fp16.safetensors``."""
NAMES_SHOWN = 3
"""How many tensors an error names before it only counts the rest."""
PICKLE_STEMS = {"model": "pytorch_model"}
"""What transformers called its files while they were pickles; diffusers kept its name."""
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, which is JSON; the weights follow."""
MAPPED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
"""What ``torch.compile`` puts before the names of a module's tensors."""
WRAPPERS = ("state_dict.", "module.", "model.module.", "_forward_module.", "vae.")
"""What stands before all names where a trainer, torch's DistributedDataParallel say, was saved around the module; the
last is what ComfyUI calls an autoencoder."""
FAULTS = {
    "HeaderTooSmall|header too small": "it is shorter than a header",
    "HeaderTooLarge|header too large": "its header claims to be longer than any model's, so it is no safetensors file",
    "InvalidHeaderLength|invalid header length": "its header claims to be longer than the file, which was cut off",
    "InvalidHeader|in header": "its header is not the JSON that it should be",
    "MetadataIncompleteBuffer|incomplete metadata": "it is longer or shorter than its header says, cut off or padded",
    "InvalidOffset|invalid offset": "two tensors overlap, or there is a gap between them",
    "TensorInvalidInfo|invalid shape": "a tensor's shape does not fit its number of bytes",
    "ValidationOverflow|overflow": "a tensor's shape is impossibly large",
}
"""What safetensors calls the faults that it finds, until version 0.5 and since -> the fault in words."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object."""
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the model folder is incomplete, fetch it again") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}, not an object: fetch it again")
    return content


def read_weights(folder: Path, stem: str, *, prefer_half: bool = False) -> dict[str, Tensor]:
    """All tensors of a model's part by name, memory-mapped on the CPU, in the format they are stored in.

    `stem` is the library's file name, ``diffusion_pytorch_model`` or ``model``. Of several copies the plain one is
    read, or the one in half precision if `prefer_half`; a variant of another name, if it is all there is. Shards are
    found through their index.
    """
    for name in weight_files(stem, prefer_half=prefer_half):
        if is_file(folder / name):
            return _read_shards(folder / name) if name.endswith(".json") else read_file(folder / name)
    # `is_folder` raises for one that may not be looked into.
    others = sorted(path.name for path in folder.iterdir() if _is_variant(path.name, stem)) if is_folder(folder) else []
    if len(others) == 1:
        note(f"{folder} holds {others[0]} alone, a variant of weights: it is read")
        path = folder / others[0]
        return _read_shards(path) if path.suffix == ".json" else read_file(path)
    if others:
        raise UserError(
            f"{folder} holds no {stem}.safetensors, but variants of it, {listed(others)}: rename one of them to that"
        )
    raise UserError(f"{folder} holds no {stem}.safetensors: the model folder is incomplete, fetch it again")


def _is_variant(name: str, stem: str) -> bool:
    """Whether a file is a copy of weights under any variant's name, such as ``model.bf16.safetensors``; not a shard."""
    variant = r"\.(?!index\b)\w+"
    whole = rf"{stem}({variant}\.safetensors|\.safetensors\.index{variant}\.json)"
    return re.fullmatch(whole, name) is not None


def weight_files(stem: str, *, prefer_half: bool = False) -> Iterator[str]:
    """Names that the weights of a part may have, the best first: of a whole file, or of the index of its shards."""
    for kind, name in (("safetensors", stem), ("bin", PICKLE_STEMS.get(stem, stem))):
        for variant in reversed(VARIANTS) if prefer_half else VARIANTS:
            middle = f".{variant}" if variant else ""
            yield f"{name}{middle}.{kind}"
            # both libraries write model.safetensors.index.fp16.json; model.fp16.safetensors.index.json is found as well
            yield f"{name}.{kind}.index{middle}.json"
            if middle:
                yield f"{name}{middle}.{kind}.index.json"


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one file by name, memory-mapped: safetensors, or a pickle if its name says so."""
    return read_with_notes(path)[0]


def read_with_notes(path: Path, *, under: Sequence[str] = ("state_dict",)) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same, and what else the file holds: a safetensors file's metadata, or what a trainer left in a pickle.

    The tensors of a pickle are its own, or lie `under` one of these names. What else there is can change what the
    weights mean. Raises UserError, by the name of what it is, for a file that is no such one.
    """
    tensors, notes = read_pickled_weights(path, under) if is_pickle(path) else read_safetensors(path)
    check_plain(tensors, path)
    return unwrapped(tensors), dict(notes)


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they had before torch wrapped their module, to compile or to distribute it.

    Programs that save the wrapper write its names into every tensor's.
    """
    named = {COMPILED.sub("", name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):  # both are there: not for us to choose
        return dict(tensors)
    for around in WRAPPERS:
        if named and all(name.startswith(around) for name in named):
            named = {name.removeprefix(around): tensor for name, tensor in named.items()}
    return named


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file by name, memory-mapped, and its metadata."""
    check_content(path, "safetensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _mapped(path, file), dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, OverflowError, AttributeError) as error:
        said = re.sub(r"\s+", " ", str(error)).strip()
        fault = next((words for names, words in FAULTS.items() if re.search(names, said)), None)
        reason = said if fault is None else f"{fault}; {said}"
        raise UserError(f"{path} cannot be read as safetensors ({reason}): fetch it again") from error


def _mapped(path: Path, file: Any) -> dict[str, Tensor]:
    """The tensors of a file that the library has opened, and so found in order, each with a storage of its own.

    The library's own way to map them takes four times as long, and at a process's first file twenty times.
    """
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
        header = json.loads(opened.read(length))
    whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    tensors: dict[str, Tensor] = {}
    for name in file.keys():  # noqa: SIM118 (it is not a dict)
        entry = header[name]
        dtype, shape = MAPPED.get(entry["dtype"]), entry["shape"]
        if dtype is None or 0 in shape:
            tensors[name] = file.get_tensor(name)
            continue
        start, end = (LENGTH_BYTES + length + offset for offset in entry["data_offsets"])
        tensors[name] = torch.empty(0, dtype=dtype).set_(whole[start:end]).view(shape)
    return tensors


def assign_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    where: Path | str,
    allow_partial: bool = False,
) -> None:
    """Put `weights` in the place of the module's own, which may be on the meta device, and switch training off.

    Raises UserError, naming the tensors, if any is missing, unexpected, has another shape or holds whole numbers.
    `where` names the source.
    With `allow_partial` unexpected ones are told in a note.
    """
    places = [
        (owner, leaf, f"{path}.{leaf}" if path else leaf, own)
        for path, owner in module.named_modules()
        for leaf, own in owner.named_parameters(recurse=False)
    ]
    differences = compare({name: own for _, _, name, own in places}, weights)
    if differences.missing:
        raise UserError(
            f"{where} lacks {listed(differences.missing)}: the file and its config.json do not belong together"
        )
    if differences.unexpected:
        said = f"{where} has {listed(differences.unexpected)}, for which its config.json leaves no place"
        if not allow_partial:
            raise UserError(f"{said}: they do not belong together, or say --allow-partial")
        note(said)
    if differences.misshapen:
        raise UserError(
            f"{where} has tensors of a wrong shape, {listed(differences.misshapes)}: its config.json says otherwise"
        )
    check_fractions({name: weights[name] for _, _, name, _ in places}, where)
    files = MappedFiles()
    for owner, leaf, name, _ in places:
        stored = weights[name]
        placed = _placed(owner, stored, device, dtype)
        setattr(owner, leaf, nn.Parameter(placed))
        if placed is not stored:  # a converted weight and the pages that it was read from need not both be in memory
            files.forget(stored.data_ptr(), stored.nbytes)
    module.eval()


def _placed(owner: nn.Module, stored: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The weight of `owner` on its device and in its format, laid out as by `to_channels_last` if it is converted."""
    if (stored.device, stored.dtype) == (device, dtype):
        return stored  # mapped: until it runs it takes no memory
    layout = fastest_layout(owner, dtype) if stored.ndim == 4 else torch.preserve_format
    return stored.to(device=device, dtype=dtype, memory_format=layout)


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor -> name of the shard beside the index that holds it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index} has no weight_map from tensors to files: fetch it again")
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:  # a shard lies beside its index; "../.." must not lead out of the folder
            raise UserError(f"{index} points outside its folder, to {name!r}: fetch the model again")
    return weight_map


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_weight_map(index)
    weights: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if not is_file(index.parent / name):
            raise UserError(f"{index.parent / name} is missing, though {index.name} names it: fetch it again")
        weights |= read_file(index.parent / name)
    missing = [name for name in weight_map if name not in weights]
    if missing:
        raise UserError(f"the shards in {index.parent} lack {listed(missing)}, though {index.name} names them")
    return weights


def listed(names: Iterable[str]) -> str:
    """``a, b, c and 4 more``."""
    names = list(names)
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
