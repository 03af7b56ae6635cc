"""Whether a path may be opened, and what its first bytes say it is: every reader of weights asks here first.

What people have under the name of weights, and what each is, is in `DISGUISES`.
"""

import os
import re
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from diafano.errors import UserError

Format = Literal["safetensors", "pickle"]
START = 512
"""Bytes that are looked at."""
GET_FILE = "download the file itself"


@dataclass(frozen=True)
class Start:
    """How a file begins."""

    first: bytes
    size: int
    """Of the whole file."""

    def matches(self, pattern: bytes) -> re.Match[bytes] | None:
        return re.match(pattern, self.first, re.IGNORECASE | re.DOTALL)

    @property
    def is_safetensors(self) -> bool:
        """The length of the header, and the brace with which it begins."""
        return self.first[8:9] == b"{" and int.from_bytes(self.first[:8], "little") <= max(self.size, 10**9)

    @property
    def text(self) -> str | None:
        """The beginning, if the file is a text."""
        try:
            said = self.first.decode("utf-8", "strict" if self.size <= len(self.first) else "ignore")
        except UnicodeDecodeError:
            return None
        plain = re.sub(r"\s+", " ", said).strip()
        return plain if plain and plain.isprintable() else None


@dataclass(frozen=True)
class Disguise:
    """What a file may be instead."""

    what: str
    advice: str
    fits: Callable[[Start], object]
    never: Format | None = None
    """The format under whose name this is no disguise."""


def _begins(pattern: bytes) -> Callable[[Start], object]:
    return lambda start: start.matches(pattern)


DISGUISES: Final = (
    Disguise("empty", "fetch it again", lambda start: not start.size),
    Disguise(
        "a safetensors file under another name",
        "rename it to {stem}.safetensors",
        lambda start: start.is_safetensors,
        never="safetensors",
    ),
    Disguise(
        "a Git LFS pointer, a note of a few lines in the place of the file",
        "fetch the file itself, with `git lfs pull` or from the model's page",
        _begins(rb"version https://git-lfs|# xet version"),
    ),
    Disguise(
        "a web page, a log-in or a model's description say, and no weights",
        GET_FILE,
        _begins(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body|script|title)"),
    ),
    Disguise("an answer of a server in XML, and no weights", GET_FILE, _begins(rb"(\xef\xbb\xbf)?\s*<\?xml|\s*<error")),
    Disguise("a JSON text, and no weights", GET_FILE, _begins(rb"(\xef\xbb\xbf)?\s*[{\[]\s*[\"}{\]]")),
    Disguise(
        "a GGUF file, whose quantized weights cannot be read yet", "use the model's .safetensors", _begins(b"GGUF")
    ),
    Disguise("a HDF5 file of Keras", "use the model's .safetensors", _begins(rb"\x89HDF")),
    Disguise("an array of numpy's", "use the model's .safetensors", _begins(rb"\x93NUMPY")),
    Disguise("a picture", "give a file of weights", _begins(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP")),
    Disguise(
        "a compressed archive", "unpack it first", _begins(rb"\x1f\x8b|7z\xbc\xaf|Rar!|\xfd7zXZ|BZh|\x28\xb5\x2f\xfd")
    ),
    Disguise(
        "a pickle of torch's under another name, which as such may run code",
        "rename it to {stem}.ckpt, which is read without running anything",
        lambda start: start.matches(rb"\x80[\x02-\x05][^\x00]"),
        never="pickle",
    ),
    Disguise(
        "a download that was not finished, it begins with zeros",
        "fetch it again",
        lambda start: not any(start.first) and start.size >= 8,
    ),
)


def check_content(path: Path, wanted: Format) -> None:
    """Raises UserError, which calls it by its name, for a file that is known to be something else than its name says.

    Other files may be broken all the same.
    """
    start = _start(path)
    for disguise in DISGUISES:
        if disguise.never != wanted and disguise.fits(start):
            raise UserError(f"{path} is {disguise.what}: {disguise.advice.format(stem=path.stem)}")
    if wanted == "safetensors" and start.matches(b"PK\x03\x04"):
        raise UserError(f"{path} is {_archive(path)}")
    if (text := start.text) is not None and not start.is_safetensors:
        raise UserError(f"{path} is a text that begins {text[:60]!r}, and no weights: {GET_FILE}")


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            torchs = any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "a zip archive that was cut off: fetch it again"
    if torchs:
        return (
            "a pickle of torch's (a zip archive) under another name, which as such may run code: rename it to"
            f" {path.stem}.ckpt, which is read without running anything"
        )
    return "a zip archive: unpack it first"


def is_file(path: Path) -> bool:
    """Whether a file is there. Raises UserError where that may not be known, and for a device and the like."""
    return _there(path) == "file"


def is_folder(path: Path) -> bool:
    """Whether a folder is there, and may be looked into. Raises UserError as `is_file` does."""
    if _there(path) != "folder":
        return False
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"the folder {path} may not be looked into (permission denied): change its permissions")
    return True


def unreadable(path: Path, error: OSError) -> UserError:
    """The sentence for a file that is there and cannot be opened; it is not called missing or broken."""
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path} is a folder, not a file: give the path of a file")
    if isinstance(error, PermissionError):
        return UserError(f"{path} may not be read (permission denied): change its permissions, it is there")
    return UserError(f"{path} cannot be read ({error.strerror or error}): check the path and the disk")


def _there(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of a name with a NUL
        if "\0" not in str(path) and path.is_symlink():  # as in a hub's cache that was moved or cleaned
            raise UserError(
                f"{path} links to {os.readlink(path)}, which is not there: put it back, or fetch it again"
            ) from None
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is neither a file nor a folder: give one of them")
    return "file"


def _start(path: Path) -> Start:
    try:
        if not is_file(path) and not is_folder(path):
            raise UserError(f"there is no file {path}: check the name")
        with path.open("rb") as file:
            return Start(file.read(START), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise unreadable(path, error) from error
