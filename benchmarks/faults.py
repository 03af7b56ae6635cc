"""Every command under every fault: full disks, folders that may not be written, broken pipes, kills at random moments.

    sudo .venv/bin/python benchmarks/faults.py [--commands generate,train] [--kills 3] [--write]

The real commands, as processes, each in a fresh folder. What must hold in every case: no traceback; a failure is one
sentence and an exit code other than 0; no file under a final name is half written; what was there before is there
still. A full disk is a small tmpfs and a read-only folder a read-only mount, so this needs root on Linux; without,
these cases are left out and counted as such. `--write` puts the table into docs/faults.md.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs/scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)

PYTHON = [sys.executable, "-m", "diafano"]
LONG = "n" * 300
NOBODY = 65534
SECONDS = 300
UNFINISHED = (".partial", ".part", ".tmp")


@dataclass(frozen=True)
class Command:
    """A command, what it reads and what it writes."""

    name: str
    words: tuple[str, ...]
    """``IN`` stands for what it reads, ``OUT`` for what it writes."""
    reads: str | None = None
    """What is to be read: picture, recipe, model, prompts."""
    writes: str | None = None
    """The name of what it writes, a file (with an ending) or a folder."""


QUICK = ("--steps", "2", "--seed", "1")
COMMANDS = (
    Command("generate", ("generate", "a fox", *QUICK, "--output", "OUT"), None, "drawn.png"),
    Command("generate into a folder", ("generate", "a fox", *QUICK, "--count", "2", "--output", "OUT"), None, "drawn"),
    Command(
        "generate --image", ("generate", "a fox", "--image", "IN", *QUICK, "--output", "OUT"), "picture", "over.png"
    ),
    Command("generate --from", ("generate", "--from", "IN", "--output", "OUT"), "picture", "again.png"),
    Command("generate --vary", ("generate", "a fox", "--vary", "steps=1,2", "--output", "OUT"), None, "varied"),
    Command(
        "generate --prompts", ("generate", "--prompts", "IN", "--steps", "1", "--output", "OUT"), "prompts", "many"
    ),
    Command("generate --filmstrip", ("generate", "a fox", *QUICK, "--filmstrip", "OUT"), None, "film.png"),
    Command("noise", ("noise", "IN", "--output", "OUT"), "picture", "noise.png"),
    Command("convert", ("convert", "IN", "OUT"), "model", "copied"),
    Command("convert to a file", ("convert", "IN", "OUT"), "model", "copied.safetensors"),
    Command("scenes", ("scenes", "OUT", "--count", "3", "--shipped"), None, "scenes"),
    Command("recipes", ("recipes", "OUT", "--pictures", "IN"), "pictures", "recipes"),
    Command("train", ("train", "autoencoder", "--config", "IN", "--device", "cpu"), "recipe", "trained"),
    Command("evaluate", ("evaluate", "--prompts", "2", "--steps", "1", "--grid", "OUT"), None, "grid.png"),
    Command("inspect", ("inspect", "IN"), "model"),
    Command("tokens", ("tokens", "a fox")),
    Command("samplers", ("samplers",)),
    Command("objects", ("objects",)),
)

RECIPE = """
output = "OUT"
[data]
size = 32
examples = 16
[network]
widths = [8, 8]
layers = 1
groups = 4
middle_attention = false
[loop]
steps = 40
batch = 4
precision = "fp32"
tensorboard = false
checkpoint_every = 5
preview_every = 10
"""


@dataclass
class Case:
    """One command in one folder."""

    command: Command
    folder: Path
    outputs: Path
    """Where it writes."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return (
            self.folder
            / "input"
            / {"picture": "p.png", "recipe": "r.toml", "prompts": "p.txt"}.get(
                self.command.reads or "", self.command.reads or ""
            )
        )

    @property
    def target(self) -> Path:
        return self.outputs / (self.command.writes or "nothing")

    def prepare(self) -> None:
        """What the command reads, from the embedded model alone."""
        self.source.parent.mkdir(parents=True, exist_ok=True)
        if self.command.reads == "picture":
            shutil.copyfile(ROOT / "docs/pictures/from_a_picture/penguin.png", self.source)
        elif self.command.reads == "recipe":
            self.source.write_text(RECIPE.replace("OUT", str(self.target)))
        elif self.command.reads == "prompts":
            self.source.write_text("a fox\nan owl\n")
        elif self.command.reads == "model":
            shutil.copytree(ROOT / "src/diafano/embedded", self.source)
        elif self.command.reads == "pictures":
            self.source.mkdir()
            Image.new("RGB", (64, 64), "red").save(self.source / "a.png")
            (self.source / "a.txt").write_text("red")

    def words(self, target: Path | None = None, source: Path | None = None) -> list[str]:
        names = {"IN": str(source or self.source), "OUT": str(target or self.target)}
        return [*PYTHON, *(names.get(word, word) for word in self.command.words)]

    def run(self, words: list[str] | None = None, **options: object) -> subprocess.CompletedProcess[bytes]:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            words or self.words(),
            cwd=self.folder,
            env=environment,
            timeout=SECONDS,
            **{**streams, **options},
        )


def sentences(result: subprocess.CompletedProcess[bytes]) -> list[str]:
    lines = (result.stderr or b"").decode(errors="replace").replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith("diafano: ") and not line.startswith("diafano: note:")]


def wrong(case: Case, result: subprocess.CompletedProcess[bytes], *, fails: bool | None) -> str | None:
    """What is wrong with how a command ended; `fails`: whether it must, must not (False), or may (None)."""
    said = (result.stderr or b"").decode(errors="replace")
    if "Traceback" in said or "Exception ignored" in said:
        return "a traceback: " + said.strip().splitlines()[-1][:200]
    if result.returncode < 0:
        return f"it ended by signal {-result.returncode}"
    if fails is True and result.returncode == 0:
        return "it says that it did what it cannot have done"
    if fails is False and result.returncode != 0:
        return f"exit code {result.returncode}: {sentences(result)}"
    if result.returncode not in (0, 130) and result.stderr is not None and len(sentences(result)) != 1:
        return f"{len(sentences(result))} sentences: {said.strip()[:200]}"
    return half_written(case.outputs)


def half_written(folder: Path) -> str | None:
    """A file under a final name that is not whole."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if not path.is_file() or path.name.endswith(UNFINISHED) or ".partial" in path.name or path.name.startswith("."):
            continue
        try:
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    list(file.keys())
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
        except Exception as error:
            return f"{path.name} is half written ({error})"
    return None


# ---- the faults


def closed(case: Case, stream: int) -> str | None:
    def close() -> None:
        os.close(stream)

    options: dict[str, object] = {"preexec_fn": close}
    if stream == 2:
        options["stderr"] = None
    return wrong(case, case.run(**options), fails=None if stream == 1 else False)


def full_output(case: Case) -> str | None:
    with open("/dev/full", "wb") as full:
        return wrong(case, case.run(stdout=full), fails=None)


def broken_pipe(case: Case) -> str | None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = case.run(stdout=writing)
        if result.returncode == 1 and sentences(result) == []:  # whoever read has seen enough, as `head` has
            result.returncode = 0
        return wrong(case, result, fails=None)
    finally:
        os.close(writing)


def full_disk(case: Case) -> str | None:
    if case.command.writes is None:
        return SKIPPED
    with mounted(case.outputs, "-t", "tmpfs", "-o", "size=16k", "tmpfs"):
        (case.outputs / "filling").write_bytes(b"x" * 12_000)
        return wrong(case, case.run(), fails=None)  # a picture or two may fit


def read_only(case: Case) -> str | None:
    if case.command.writes is None:
        return SKIPPED
    with mounted(case.outputs, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        return wrong(case, case.run(), fails=True)


def unreadable(case: Case) -> str | None:
    if case.command.reads is None:
        return SKIPPED
    case.source.chmod(0)
    for path in (case.folder, case.outputs):
        path.chmod(0o777)
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *case.words()]
    case.environment = {"HOME": str(case.folder)}
    return wrong(case, case.run(words), fails=True)


def missing(case: Case) -> str | None:
    if case.command.reads is None:
        return SKIPPED
    return wrong(case, case.run(case.words(source=case.folder / "not there.png")), fails=True)


def empty(case: Case) -> str | None:
    if case.command.reads is None:
        return SKIPPED
    file = case.folder / f"empty{case.source.suffix}"
    file.touch()
    return wrong(case, case.run(case.words(source=file)), fails=True)


def folder_for_a_file(case: Case) -> str | None:
    """A folder where a file is to be read, or the other way round."""
    if case.command.reads is None:
        return SKIPPED
    other = case.folder / "other"
    if case.source.is_dir():
        other.write_text("no folder")
    else:
        other = other.with_suffix(case.source.suffix)
        other.mkdir()
    return wrong(case, case.run(case.words(source=other)), fails=True)


def in_the_way(case: Case) -> str | None:
    """A folder where a file is to be written, or the other way round."""
    if case.command.writes is None:
        return SKIPPED
    if case.target.suffix:
        case.target.mkdir()
    else:
        case.target.write_text("in the way")
    into = case.target.is_dir() and "--output" in case.command.words  # a folder may be named there
    found = wrong(case, case.run(), fails=None if into else True)
    if found is None and not case.target.is_dir() and case.target.read_text() != "in the way":
        return "what was there is gone"
    return found


def too_long(case: Case) -> str | None:
    if case.command.writes is None or case.command.name == "train":
        return SKIPPED
    return wrong(case, case.run(case.words(target=case.outputs / (LONG + case.target.suffix))), fails=True)


def nowhere(case: Case) -> str | None:
    """A link that leads nowhere, in a file's or folder's place."""
    if case.command.writes is None:
        return SKIPPED
    case.target.symlink_to(case.folder / "no" / "such" / "place")
    return wrong(case, case.run(), fails=None)


def poor_locale(case: Case) -> str | None:
    case.environment = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    named = case.command.writes is not None and case.command.name != "train"
    odd = case.outputs / f"日本 🦊{case.target.suffix}" if named else None
    return wrong(case, case.run(case.words(target=odd)), fails=False)


def odd_bytes(case: Case) -> str | None:
    """Words on the command line that are no UTF-8."""
    words = [os.fsencode(word) for word in case.words()]
    at = next((at for at, word in enumerate(words) if word == b"a fox"), None)
    if at is None:
        return SKIPPED
    words[at] = b"a f\xffox"
    return wrong(case, case.run(words), fails=None)  # type: ignore[arg-type]


def killed(case: Case, by: signal.Signals, chance: random.Random, usual: float) -> str | None:
    """Ended at a moment of chance; then once more, to its end."""
    if case.command.writes is None:
        return SKIPPED
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        case.words(), cwd=case.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(chance.uniform(0.2, 1.05) * usual)
    process.send_signal(by)
    out, error = process.communicate(timeout=SECONDS)
    if by is signal.SIGINT:
        if b"Traceback" in error:
            return "a traceback: " + error.decode(errors="replace").strip().splitlines()[-1][:200]
        if process.returncode not in (0, 130, -signal.SIGINT):  # the last: before the command itself has begun
            return f"exit code {process.returncode}"
    if (half := half_written(case.outputs)) is not None:
        return half
    for told in out.decode(errors="replace").splitlines():  # what it has told of is there
        if told.endswith(".png") and not (case.folder / told).is_file():
            return f"{told} was told of and is not there"
    return wrong(case, case.run(), fails=False)


SKIPPED = "skipped"


@contextmanager
def mounted(place: Path, *how: str) -> Iterator[None]:
    subprocess.run(["mount", *how, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def faults(kills: int) -> dict[str, Callable[[Case], str | None]]:
    found: dict[str, Callable[[Case], str | None]] = {
        "no fault": lambda case: wrong(case, case.run(), fails=False),
        "standard output on a full device": full_output,
        "standard output closed": lambda case: closed(case, 1),
        "standard output a broken pipe": broken_pipe,
        "standard input closed": lambda case: closed(case, 0),
        "standard error closed": lambda case: closed(case, 2),
        "a full disk": full_disk,
        "a read-only folder": read_only,
        "an input that may not be read": unreadable,
        "an input that is not there": missing,
        "an empty input": empty,
        "a folder in the input's place, or a file": folder_for_a_file,
        "a folder in the output's place, or a file": in_the_way,
        "a name of 300 letters": too_long,
        "a link that leads nowhere": nowhere,
        "a locale without letters, names beyond it": poor_locale,
        "words that are no UTF-8": odd_bytes,
    }
    for by, what in ((signal.SIGINT, "Ctrl-C"), (signal.SIGKILL, "killed")):
        for number in range(kills):
            chance = random.Random(f"{by}{number}")
            found[f"{what} at a moment of chance, {number + 1}"] = lambda case, by=by, chance=chance: killed(  # type: ignore[misc]
                case, by, chance, USUAL.get(case.command.name, 3.0)
            )
    return found


USUAL: dict[str, float] = {}
"""How long each command takes, as found by the case without a fault."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", help="only these, by the first word of their names, commas between them")
    parser.add_argument("--faults", help="only those whose names contain this")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    said = parser.parse_args()
    wanted = said.commands.split(",") if said.commands else None
    table: dict[str, Counter[str]] = {}
    failures: list[str] = []
    root = os.geteuid() == 0
    for command in COMMANDS:
        if wanted is not None and command.name not in wanted and command.name.split()[0] not in wanted:
            continue
        for name, fault in faults(said.kills).items():
            if said.faults is not None and said.faults not in name:
                continue
            row = table.setdefault(name.split(", ")[0] if name[-1].isdigit() else name, Counter())
            if not root and fault in (full_disk, read_only, unreadable):
                row["skipped"] += 1
                continue
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                folder.chmod(0o755)
                case = Case(command, folder, folder / "outputs")
                case.outputs.mkdir()
                case.prepare()
                begun = time.monotonic()
                try:
                    found = fault(case)
                except subprocess.TimeoutExpired:
                    found = f"it goes on after {SECONDS} s"
                if name == "no fault":
                    USUAL[command.name] = time.monotonic() - begun
            row["skipped" if found == SKIPPED else "right" if found is None else "wrong"] += 1
            if found not in (None, SKIPPED):
                failures.append(f"{command.name}, {name}: {found}")
                print(failures[-1], flush=True)
    lines = ["| fault | cases | right |", "| --- | --- | --- |"]
    for name, row in table.items():
        lines.append(f"| {name} | {row['right'] + row['wrong']} | {row['right']} |")
    cases, right = (sum(row[what] for row in table.values()) for what in ("wrong", "right"))
    lines.append(f"| all | {cases + right} | {right} |")
    text = "\n".join(lines)
    print(text)
    if said.write:
        write_between_markers(ROOT / "docs/faults.md", "faults", text)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
