"""Files that are there as a whole or not at all; names for them that take no other file's place; texts and folders as
people make them."""

import errno
import itertools
import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diafano.errors import UserError, note

CACHE = "XDG_CACHE_HOME"
"""The variable that names the user's folder for what can be made again (XDG base directory specification)."""
LONGEST_NAME = 60
"""Letters of a prompt that a file's name takes."""
LONGEST_SLUG = 180
"""Bytes of it, so that seeds and a number still fit behind it."""
LONGEST_BYTES = 255
"""That a file's name has at most, in nearly every file system."""
LONGEST_SHOWN = 300
"""Letters of a name in a sentence."""

ADVICE = {
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EFBIG: "choose a place that takes larger files",
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOENT: "check the name, or choose another place",
    errno.ENOTDIR: "a file is where a folder should be, so choose another name",
    errno.EEXIST: "something is there already, so choose another name",
    errno.EISDIR: "a folder is where a file should be, so choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead back to themselves, so choose another name",
}
"""What to do after each of the operating system's refusals."""


# ---- what cannot be done


def refusal(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """A sentence about what the operating system refused: which file, why, and what to do.

    `path` is what the user would call the file; None takes the name that the error holds.
    """
    name = error.filename if path is None else path
    what = "a file" if name is None else shortened(name)
    advice = ADVICE.get(error.errno or 0, "choose another place, or try again")
    return f"{what} cannot be used ({reason(error)}): {advice}"


def reason(error: Exception) -> str:
    """Why something was refused: in the system's words without its number and the name, or in the error's own."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def shortened(name: object) -> str:
    """The name of a file in quotes; of one that no file can have, as it is too long, the beginning."""
    text = os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else name
    if isinstance(text, str) and len(text) > LONGEST_SHOWN:
        return f"{text[:LONGEST_SHOWN]!r}... ({len(text)} letters)"
    return repr(text)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """An OSError inside gets the name of `target`: that of a write has none, that of a copy beside it a strange one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # others say in their own words what is wrong
            error.filename, error.filename2 = str(target), None
        raise


# ---- files that are whole


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; what was written takes the target's place when the block ends.

    After an error the target is as it was, and nothing is left beside it. Where it is a link, the link stays, and what
    it leads to is written.
    """
    real = Path(os.path.realpath(target))
    with naming(target), _unfinished(real) as unfinished:
        yield unfinished
        unfinished.replace(real)


@contextmanager
def new_file(names: Iterable[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """A path to write to, and a list, empty until the block ends: then it holds the first of `names`, all in one
    folder, that no other file had, and that is where the file lies.

    Nobody's file is replaced, however many do this at once: names are taken with what belongs there, in one step, not
    looked at first. After an error there is nothing.
    """
    names = iter(names)
    first = next(names)
    taken: list[Path] = []
    with naming(first), _unfinished(first) as unfinished:
        yield unfinished, taken
        taken.append(next(name for name in itertools.chain([first], names) if _put(unfinished, name)))


def _put(unfinished: Path, name: Path) -> bool:
    """Whether the file got the name, which another one may have."""
    try:
        os.link(unfinished, name)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: an empty file keeps the name until the whole one is moved there
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        try:
            unfinished.replace(name)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
    return True


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A path beside `target` that nobody has, and where nothing is when the block has ended."""
    # Not tempfile.mkstemp: its files are private to the user, and these follow the umask like any other file.
    unfinished = target.with_name(f".{cut(target.name, 200)}.{secrets.token_hex(4)}.part")
    try:
        yield unfinished
    finally:
        with suppress(OSError):  # it must not hide why the block ended
            unfinished.unlink(missing_ok=True)


# ---- whether there is a place for a file: to be asked before the work, not after it


def check_file(path: Path, kind: str = "a file") -> None:
    """Raise UserError unless a file, which is to be of a `kind`, can be written to `path`."""
    with _refused(path):
        if path.is_dir():
            raise UserError(f"{str(path)!r} is a folder, not {kind}: name a file in it")
        real = Path(os.path.realpath(path)) if path.is_symlink() else path
        if not real.parent.is_dir():
            raise UserError(f"there is no folder {str(real.parent)!r} to write {real.name!r} to: make it first")
        check_writable(real.parent)


def check_folder(folder: Path, *, parents: bool = False) -> None:
    """Raise UserError unless files can be written into a folder, which is there or can be made; with its `parents`."""
    with _refused(folder):
        if folder.is_dir():
            check_writable(folder)
            return
        if os.path.lexists(folder):
            what = "is a file" if folder.exists() else "links to what is not there"
            raise UserError(f"{str(folder)!r} {what}, and a folder is to be written: choose another name")
        if parents:
            folder.mkdir(parents=True)
        elif not folder.parent.is_dir():
            raise UserError(f"there is no folder {str(folder.parent)!r} to make {folder.name!r} in: make it first")
        else:
            check_writable(folder.parent)


def check_writable(folder: Path) -> None:
    """Raises OSError unless a file can be made in the folder: by making one, as rights do not say it all."""
    with naming(folder), _unfinished(folder / "probe") as probe:
        probe.touch(exist_ok=False)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the operating system says against a path, as a UserError."""
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)  # refuses names that are too long or no names: pathlib takes some of them for absent files
        yield
    except OSError as error:
        raise UserError(f"cannot write: {refusal(error, path)}") from error
    except UserError:
        raise
    except ValueError as error:  # a NUL, or half of a letter
        raise UserError(f"{str(path)!r} is no name for a file ({error}): leave out what cannot be in one") from error


def write_text(target: Path, text: str) -> None:
    """The text as a `whole_file`, in UTF-8."""
    with whole_file(target) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def at_home(path: str | os.PathLike[str]) -> Path:
    """The path, with the user's home for a ``~`` at its beginning: shells put it there, Python and recipes do not.

    Where something here is called so, it is meant; and where nobody's home is known, nothing changes.
    """
    plain = Path(path)
    if not plain.parts[:1] or not plain.parts[0].startswith("~") or os.path.lexists(plain.parts[0]):
        return plain
    with suppress(RuntimeError):
        return plain.expanduser()
    return plain


def cache_folder(name: str) -> Path:
    """Where the package keeps what takes long to make, a folder for each kind: in one of the user's own."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache") / "diafano" / name


def slug(prompt: str) -> str:
    """``Two red äpples, on blue!`` -> ``two-red-apples-on-blue``; letters of any script stay."""
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", prompt.lower()) if not unicodedata.combining(letter)
    )
    letters = re.sub(r"[\W_]+", "-", plain)[:LONGEST_NAME]
    return cut(letters, LONGEST_SLUG).strip("-") or "picture"


def numbered(path: Path) -> Iterator[Path]:
    """``a.png``, ``a-2.png``, ``a-3.png`` and so on."""
    yield path.with_name(cut(path.stem, LONGEST_BYTES - len(os.fsencode(path.suffix))) + path.suffix)
    yield from (with_number(path, number) for number in itertools.count(2))


def with_number(path: Path, number: int) -> Path:
    """``a.png`` -> ``a-7.png``; the stem is cut where that would be too long for a file's name."""
    ending = f"-{number}{path.suffix}"
    return path.with_name(cut(path.stem, LONGEST_BYTES - len(os.fsencode(ending))) + ending)


def cut(name: str, length: int) -> str:
    """As much of the name as fits into so many bytes: letters take one to four each."""
    data = os.fsencode(name)
    if len(data) <= length:
        return name
    return data[:length].decode("utf-8", "ignore")


def how_to_spell() -> str:
    """What to do where bytes came that are no letters."""
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):  # then no letters but its own come through
        return "the shell's locale has no such letters, set LC_ALL=C.UTF-8"
    return "type it again, or save its file as UTF-8"


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte-order mark or without. Raises OSError or UnicodeDecodeError."""
    return path.read_text(encoding="utf-8-sig")


def lines_of(text: str) -> list[str]:
    """The lines of a text that `read_text` has read: they end at line feeds and nowhere else.

    `str.splitlines` also cuts at letters that are part of a line: U+2028, U+2029, U+0085 and some of ASCII's.
    """
    return text.removesuffix("\n").split("\n") if text else []


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and in the folders within, in the order of their names. Hidden ones are none of them.

    Linked folders are entered. One that leads to a folder whose files are taken already, such as one around itself, is
    not, and a note says so.
    """
    known: dict[str, Path] = {}
    waiting, linked, found = [folder], list[Path](), list[Path]()
    while waiting or linked:
        # What is there comes before what is only linked: of a folder and its link, the folder's files are taken.
        at = waiting.pop() if waiting else linked.pop(0)
        before = known.setdefault(os.path.realpath(at), at)
        if before is not at:
            note(f"{at} leads to {before}, whose files are there already: they count once")
            continue
        try:
            entries = sorted(at.iterdir())
        except OSError as error:
            note(f"the folder {at} cannot be read ({error.strerror}): it is left out")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(entry)
            elif entry.is_file():
                found.append(entry)
            elif entry.is_symlink():
                note(f"{entry} links to what is not there: it is left out")
    return sorted(found)
