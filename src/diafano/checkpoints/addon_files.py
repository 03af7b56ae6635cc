"""Files of add-ons: found by the name that a prompt calls them by, and known again by their hash."""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from diafano.checkpoints.pickles import SUFFIXES
from diafano.errors import UserError, note
from diafano.files import files_below

ADDON_SUFFIXES = (".safetensors", *SUFFIXES)
PIECE_FROM, PIECE_LENGTH = 0x100000, 0x10000  # bytes
NEAR_NAMES = 3
"""How many names like the one that was not found are told."""


def files_in(folder: Path) -> Iterator[Path]:
    """The weights in a folder and the folders in it, linked ones too, in the order of their names."""
    return (path for path in files_below(folder) if path.suffix.lower() in ADDON_SUFFIXES)


def note_nothing_in(folder: Path, kind: str) -> None:
    """Say so where a folder that was given for add-ons has none; `kind` is what they are."""
    if next(files_in(folder), None) is None:
        note(
            f"there are no {kind}s in the folder {folder}: give one that has files ending in"
            f" {', '.join(ADDON_SUFFIXES)}"
        )


def named_files(
    name: str,
    files: Mapping[str, Path],
    folders: Sequence[Path],
    kind: str,
    options: str,
    inside: Callable[[Path], str | None] = lambda path: None,
) -> Path:
    """The file of that name: in `files`, else the only one in `folders` that is called so, its ending aside.

    Of several that are called so a name with their folder is meant, ``char/ink``; the ending may be written out. Where
    no file is called so, the only one that was so when it was made, which `inside` says of a file, is taken, and a note
    says it. Raises UserError, with the names most like it, where there is none, and where there are several. `kind` and
    `options` are what it is and what gives it on the command line.
    """
    if name in files:
        return files[name]
    in_folders = [path for folder in folders for path in files_in(folder)]
    found = [path for path in in_folders if path.stem == name] or [path for path in in_folders if _ends(path, name)]
    if not found and (found := [path for path in in_folders if inside(path) == name]):
        note(f"no {kind} is called {name!r} today, and {found[0]} was when it was made: it is taken")
    if len(found) > 1:
        raise UserError(
            f"there are several {kind}s called {name!r}, {', '.join(str(path) for path in found[:NEAR_NAMES])}:"
            " give one of them another name, or name its folder too, as in folder/name"
        )
    if found:
        return found[0]
    names = sorted({*files, *(path.stem for path in in_folders)})
    if not names:
        raise UserError(f"the {kind} {name!r} that the prompt names is not known, nor any other: give {options}")
    where = f" in {', '.join(str(folder) for folder in folders)}" if folders else ""
    folded: dict[str, list[str]] = {}
    for known in names:
        folded.setdefault(known.casefold(), []).append(known)
    matches = difflib.get_close_matches(name.casefold(), folded, NEAR_NAMES)
    near = [known for match in matches for known in folded[match]][:NEAR_NAMES]
    if near:
        raise UserError(f"there is no {kind} {name!r}{where}: did you mean {' or '.join(near)}?")
    more = f" and {len(names) - NEAR_NAMES} more" if len(names) > NEAR_NAMES else ""
    raise UserError(f"there is no {kind} {name!r}{where}: there are {', '.join(names[:NEAR_NAMES])}{more}")


def _ends(path: Path, name: str) -> bool:
    """Whether the path ends in that name, which may have folders, of Windows too, and an ending."""
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    if not parts:
        return False
    if parts[-1].lower().endswith(ADDON_SUFFIXES):
        parts[-1] = parts[-1].rpartition(".")[0]
    return [*path.parts[:-1], path.stem][-len(parts) :] == parts


def hash_of(path: Path, digits: int = 12, *, without_header: bool = False) -> str:
    """The first hexadecimal digits of a file's SHA-256, by which A1111 knows it.

    `without_header` leaves out a safetensors file's header, notes and names, as is done for LoRAs: what trainers note
    in it later does not change the hash.
    """
    with path.open("rb") as file:
        if without_header and path.suffix.lower() == ".safetensors":
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()[:digits]


def hash_of_piece(path: Path) -> str:
    """A1111's old hash, by which it knows ControlNets: of 64 KiB in the file, of a shorter file as a whole."""
    with path.open("rb") as file:
        file.seek(PIECE_FROM)
        piece = file.read(PIECE_LENGTH)
    return hashlib.sha256(piece).hexdigest()[:8] if len(piece) == PIECE_LENGTH else hash_of(path, 8)
