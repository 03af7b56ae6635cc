"""Models on the Hugging Face hub: ``owner/name``, or ``owner/name@revision``, becomes a folder in the hub's own cache.

`huggingface_hub` does the work: its cache, its token, its offline mode. What is decided here is which of a
repository's files a model needs (`needed_files`): many keep the same weights three or four times.

    model_index.json       by the revision's name, so that the cache learns which commit that is
    list of files          of that commit; without the hub, what the cache has of it
    everything else        by the commit, so that all files belong together and what is there is not asked for again
"""

import errno
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diafano import __version__
from diafano.checkpoints.diffusers import CARD, INDEX, check_index, load_folder, prefers_half
from diafano.checkpoints.pickles import SUFFIXES
from diafano.checkpoints.reading import read_json, read_weight_map, weight_files
from diafano.engine.devices import find_device
from diafano.errors import UserError
from diafano.families.family import Family
from diafano.stable_diffusion import StableDiffusion

SHAPE = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w.+/-]*))?", re.ASCII)
FILES = (".safetensors", *SUFFIXES)
"""What the name of a single file ends in, so that a mistyped one is not looked up on the hub."""
VOCABULARIES = (("vocab.json", "merges.txt"), ("vocab.txt",), ("tokenizer.json",))
"""The forms of a tokenizer, in the order in which `Tokenizer.from_folder` looks for them."""
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_NOTES = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
LIST_SECONDS = 10
"""How long to wait for the list of files before what the cache has is taken."""
MOST_CAUSES = 20
LOGGING_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class HubId:
    """A repository on the hub, and a branch, tag or commit of it (None: its main branch)."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @classmethod
    def of(cls, said: str) -> "HubId":
        """``owner/name`` or ``owner/name@revision``."""
        repository, _, revision = said.partition("@")
        return cls(repository, revision or None)

    @property
    def name(self) -> str:
        """Without the owner."""
        return self.repository.partition("/")[2]


class _AbsentError(UserError):
    """The repository is there, but not that file of it."""


class _NotCachedError(UserError):
    """The file is not in the cache, and nobody may ask the hub."""


def find_hub_id(source: object, revision: str | None = None) -> HubId | None:
    """The repository that `source` names, None where it names none: whatever exists here is a path.

    `revision` is the one that was given beside it. Raises UserError where it has nothing to stand beside.
    """
    is_path = not isinstance(source, str) or os.path.exists(source) or source.lower().endswith(FILES)
    match = None if is_path else SHAPE.fullmatch(str(source))
    if match is None or ".." in match[0]:
        if revision is not None:
            raise UserError(f"revision {revision!r} was given, but {source!r} is no hub id: leave it out")
        return None
    named = match["revision"]
    if revision is not None and named not in (None, revision):
        raise UserError(f"{source!r} and the revision {revision!r} differ: leave one of them out")
    return HubId(match["repository"], named if revision is None else revision)


def load_from_hub(
    hub_id: HubId,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    allow_partial: bool = False,
) -> StableDiffusion:
    """The model in a repository, downloaded if the cache has not got it. Raises UserError, one sentence, if not."""
    folder = fetch(hub_id, prefer_half=prefers_half(dtype, find_device(device)))
    model = load_folder(folder, device=device, dtype=dtype, allow_partial=allow_partial)
    if not (folder / CARD).is_file():  # the card was guessed, and named after the folder, which is called by its commit
        model.card = model.card.model_copy(update={"name": hub_id.name})
    return model


def fetch(hub_id: HubId, *, prefer_half: bool = False, weights: bool = True) -> Path:
    """The folder in the cache with the files that a model needs; without `weights`, those that describe it.

    Raises UserError, one sentence, for what cannot be had.
    """
    try:
        index = _download(hub_id, INDEX)
    except _AbsentError as error:
        raise UserError(
            f"{error}, so it holds no model in diffusers' layout: if it holds single files, download one and give its"
            " path"
        ) from error
    family = check_index(read_json(index), Path(hub_id.repository))  # before gigabytes of a model of another kind
    snapshot = index.parent
    for name in needed_files(_list_files(hub_id, snapshot), family, prefer_half=prefer_half, weights=weights):
        path = _download(hub_id, name, snapshot)
        if ".index." in path.name:
            for shard in sorted(set(read_weight_map(path).values())):
                _download(hub_id, f"{path.parent.name}/{shard}", snapshot)
    return snapshot


def fetch_tokenizer(hub_id: HubId) -> Path:
    """The folder in the cache with the tokenizer of a repository, which is a whole model or a text encoder alone."""
    try:
        config = _download(hub_id, f"tokenizer/{TOKENIZER_CONFIG}")
        snapshot, inside = config.parent.parent, "tokenizer/"
    except (_AbsentError, _NotCachedError):
        config = _download(hub_id, TOKENIZER_CONFIG)
        snapshot, inside = config.parent, ""
    for name in _tokenizer_files(_list_files(hub_id, snapshot), inside):
        _download(hub_id, name, snapshot)
    return config.parent


def needed_files(
    listed: Collection[str], family: Family, *, prefer_half: bool = False, weights: bool = True
) -> Iterator[str]:
    """Which of a repository's files a model is made of; of several copies of weights the one that is read (see there).

    A file that no model of the family is without is among them, listed or not. Shards are left to the index that
    stands for them.
    """
    for folder, kinds in family.folders.items():
        yield f"{folder}/{kinds[0].file}"
    for tokenizer in family.tokenizers.values():
        yield from _tokenizer_files(listed, f"{tokenizer}/")
    if CARD in listed:
        yield CARD
    for folder, kinds in family.folders.items() if weights else ():
        if (stem := kinds[0].stem) is not None:
            names = (f"{folder}/{name}" for name in weight_files(stem, prefer_half=prefer_half))
            yield next((name for name in names if name in listed), f"{folder}/{stem}.safetensors")


def _tokenizer_files(listed: Collection[str], inside: str) -> Iterator[str]:
    forms = [[inside + name for name in form] for form in VOCABULARIES]
    yield from next((form for form in forms if form[0] in listed), forms[0])
    yield from (inside + name for name in TOKENIZER_NOTES if inside + name in listed)


def _list_files(hub_id: HubId, snapshot: Path) -> set[str]:
    """Names of all files of the snapshot's commit; without the hub, of those in the cache."""
    api = _library().HfApi(library_name="diafano", library_version=__version__)
    try:
        info = api.model_info(hub_id.repository, revision=snapshot.name, timeout=LIST_SECONDS)
        return {file.rfilename for file in info.siblings or ()}
    except Exception:  # see `_download`; what the cache lacks is complained of there
        return {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")}


def _download(hub_id: HubId, name: str, snapshot: Path | None = None) -> Path:
    """A file of the repository in the cache; of the commit that `snapshot` is of, if given."""
    revision = hub_id.revision if snapshot is None else snapshot.name
    library = _library()
    try:
        path = library.hf_hub_download(
            hub_id.repository, name, revision=revision, library_name="diafano", library_version=__version__
        )
        return Path(path)
    except Exception as error:  # those of the HTTP client are let through, and each few versions have another client
        raise _explained(error, hub_id, name) from error


def _explained(error: Exception, hub_id: HubId, name: str) -> UserError:
    """What went wrong, from the first cause that says it; the library wraps most into "not found locally"."""
    known = _library().errors
    cause: BaseException = error
    for cause in _causes(error):
        if isinstance(cause, known.GatedRepoError):
            return UserError(
                f"{hub_id} is gated: ask its owners for access on the model's page of the hub, then {LOGGING_IN}"
            )
        if isinstance(cause, known.RepositoryNotFoundError | known.HFValidationError):
            return UserError(
                f"there is no model {str(hub_id)!r}, neither a path here nor a public one on the hub: check the name,"
                f" or, if it is private, {LOGGING_IN}"
            )
        if isinstance(cause, known.RevisionNotFoundError):
            return UserError(
                f"{hub_id.repository} has no revision {hub_id.revision!r}: give one of its branches, tags or commits"
            )
        if isinstance(cause, known.EntryNotFoundError) and not isinstance(cause, known.LocalEntryNotFoundError):
            return _AbsentError(f"{hub_id} has no {name} on the hub")
        if isinstance(cause, known.OfflineModeIsEnabled):
            return _NotCachedError(
                f"{name} of {hub_id} is not in the cache, and HF_HUB_OFFLINE forbids to download it: unset that once"
            )
        if isinstance(cause, known.HfHubHTTPError):
            status = getattr(cause.response, "status_code", None)
            what = LOGGING_IN if status in (401, 403) else "try again later"
            return UserError(f"the hub refuses {name} of {hub_id} (HTTP status {status}): {what}")
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS):
            return UserError(
                f"{name} of {hub_id} cannot be written into the cache ({cause}): make room, or set HF_HOME to another"
                " place"
            )
    said = re.sub(r"\s+", " ", str(cause)).strip()[:200] or type(cause).__name__
    return UserError(
        f"{name} of {hub_id} is not in the cache, and the hub cannot be reached ({said}): check the connection, or give"
        " a path"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, what that was raised from, and so on."""
    deeper: BaseException | None = error
    for _ in range(MOST_CAUSES):  # a chain can bite its own tail
        if deeper is not None:
            yield deeper
            deeper = deeper.__cause__ or deeper.__context__


def _library() -> Any:
    """`huggingface_hub`, which takes its time to import, and only those wait for it who ask the hub."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            f"models on the hub need the package huggingface_hub ({error}): install it with `pip install"
            " huggingface_hub`, or give a path"
        ) from error
    return huggingface_hub
