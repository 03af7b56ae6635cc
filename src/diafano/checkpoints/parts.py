"""One part of a model to and from its folder in the diffusers format; a training stage hands on just such a folder.

What the folder of a class of parts holds is declared by a `FolderPart`. Reading gives the network without weights and
the weights beside it (`ReadPart`), so that a number format can be chosen for all parts together before any memory is
taken.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from diafano.checkpoints.reading import assign_weights, read_json, read_weights
from diafano.checkpoints.writing import MAX_SHARD_BYTES, write_json, write_weights
from diafano.engine.devices import on_meta
from diafano.errors import UserError
from diafano.families.family import FolderPart, Json, ReadContext, WriteContext
from diafano.text_encoder.tokenizer import Tokenizer

Part = TypeVar("Part", covariant=True)


@dataclass(frozen=True)
class ReadPart(Generic[Part]):
    """A part, a network on the meta device say, and the stored weights for it."""

    part: Part
    weights: Mapping[str, Tensor]
    folder: Path
    settings: Json
    """What its JSON says."""

    def filled(
        self, device: torch.device | None = None, dtype: torch.dtype = torch.float32, *, allow_partial: bool = False
    ) -> Part:
        """The network with its weights, ready to run on `device` (the CPU if None). Raises UserError if they differ.

        With `allow_partial` weights that have no place in it are told in a note.
        """
        if isinstance(self.part, nn.Module):
            device = torch.device("cpu") if device is None else device
            assign_weights(
                self.part, self.weights, device=device, dtype=dtype, where=self.folder, allow_partial=allow_partial
            )
        return self.part


def read_part(
    folder: Path,
    *kinds: FolderPart[Part],
    tokenizer: Tokenizer | None = None,
    weights: bool = True,
    prefer_half: bool = False,
) -> ReadPart[Part]:
    """The part in a folder, which is of one of these `kinds`; a text encoder's special tokens are its `tokenizer`'s.

    Without `weights` it is only described. Raises UserError, naming the file, for what is missing or unknown.
    """
    path = folder / kinds[0].file
    settings = read_json(path)
    kind = kinds[0] if len(kinds) == 1 else _named(settings, kinds, path)
    stored: Mapping[str, Tensor] = {}
    if weights and kind.stem is not None:
        stored = kind.ours(read_weights(folder, kind.stem, prefer_half=prefer_half))
    tokens = (0, 0, 0) if tokenizer is None else (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token)
    config = kind.read(settings, ReadContext(str(path), tokens, stored.keys()))
    with nullcontext() if kind.stem is None else on_meta():
        return ReadPart(kind.make(config), stored, folder, settings)


def write_part(
    part: Any,
    folder: Path,
    kind: FolderPart[Any],
    said: WriteContext = WriteContext(),  # noqa: B008 (frozen)
    *,
    config: Any = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a part into its folder, its weights converted to `dtype` (None: as they are), large ones in shards.

    What its JSON says is `config` (None: its own) and what is `said` beside it.
    """
    if kind.stem is not None:
        stored = next(part.parameters()).dtype if dtype is None else dtype
        said = replace(said, dtype=str(stored).removeprefix("torch."))
        weights = {kind.prefix + name: tensor for name, tensor in part.state_dict().items()}
        write_weights(weights, folder, kind.stem, dtype=dtype, max_shard_bytes=max_shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / kind.file, kind.write(part.config if config is None else config, said))


def _named(settings: Json, kinds: tuple[FolderPart[Part], ...], path: Path) -> FolderPart[Part]:
    architecture = settings.get("architectures") or [None]
    usual = next((kind.model_type for kind in kinds if kind.class_name == architecture[0]), None)
    named = settings.get("model_type", usual)
    for kind in kinds:
        if kind.model_type == named:
            return kind
    known = " and ".join(str(kind.model_type) for kind in kinds)
    raise UserError(f"{path} describes a text encoder of the type {named!r}: only {known} are known")
