"""diafano and its peers on this machine: a guided step, decoding, encoding, text, whole pictures, starting, memory.

    .venv/bin/python benchmarks/peers.py [--only step --only decode] [--peers "diffusers bf16" ...] [--runs 3]
                                         [--size 512] [--batch 1] [--steps 20] [--folder FOLDER] [--write]

Makes one Stable Diffusion 1 model with random weights (2 GB in float16; `--folder` keeps it for the next time) and
gives it to every program that is installed (`make peers` installs those that the tests do not need), each in a process
of its own that stays loaded while the memory lasts (`--memory`). Then the same work is done by one after the other,
round by round. What is found is added to a JSON file, in which later runs of the script take the place of earlier ones;
`--write` puts the tables into docs/speed.md.

A ratio always stands for two programs of the same run. What has been built once beforehand (OpenVINO's form of the
networks, stable-diffusion.cpp's single file) is in no figure; what is compiled anew in each process is in `cold`.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from in_turn import output_of
from peer_tables import tables
from programs import PROGRAMS, Listed

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers"
"""One folder for each package that `make peers` installs."""
WORK = ("step", "decode", "encode", "text", "picture")
PROCESSES = ("start", "memory", "cold", "error")
GIB = 2**30
MEMORY_STEPS = 2
"""Of the picture whose memory is measured: the second step takes what each later one does."""
LARGEST = 5.0
"""GiB that a program may take once it is loaded; what it really takes counts from then on."""


def environment(listed: Listed) -> dict[str, str]:
    """That of the program's process."""
    own = [str(PEERS / listed.needs)] if listed.needs is not None and (PEERS / listed.needs).is_dir() else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*own, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}


def installed(listed: Listed) -> bool:
    if listed.needs is None or (PEERS / listed.needs).is_dir():
        return True
    return importlib.util.find_spec(listed.needs) is not None


class Worker:
    """A program in a process of its own, see `peer_worker`."""

    def __init__(self, name: str, folder: Path) -> None:
        listed = PROGRAMS[name]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "peer_worker.py"), listed.module, listed.name, str(folder)],
            env=environment(listed),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.name, self.memory, self.used = name, LARGEST * GIB, time.monotonic()
        self.loaded = self._reply()

    def ask(self, **what: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its last words tell why
            print(json.dumps(what), file=self.process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self.log.read()}")
        said: dict[str, Any] = json.loads(line)
        self.memory, self.used = said["memory"], time.monotonic()
        return said

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Workers:
    """Starts programs when they are asked for; stops those that have waited longest where the memory is short."""

    def __init__(self, folder: Path, memory: float) -> None:
        self.folder, self.memory = folder, memory * GIB
        self.running: dict[str, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        if name not in self.running:
            while self.running and sum(one.memory for one in self.running.values()) + LARGEST * GIB > self.memory:
                self.stop(min(self.running.values(), key=lambda one: one.used).name)
            self.running[name] = Worker(name, self.folder)
        return self.running[name]

    def stop(self, name: str) -> None:
        self.running.pop(name).stop()

    def stop_all(self) -> None:
        for name in list(self.running):
            self.stop(name)


def measure_work(workers: Workers, programs: list[str], runs: int, what: dict[str, object]) -> dict[str, Any]:
    """program -> seconds of each run, and of the pause that the first call in its process made, where one was made."""
    found: dict[str, Any] = {name: {"seconds": [], "pause": None} for name in programs}
    for _ in range(runs):
        for name in list(found):
            said = workers[name].ask(**what)
            if said.get("cannot"):
                del found[name]
                continue
            found[name]["seconds"].append(said["seconds"])
            found[name]["pause"] = said["pause"] if found[name]["pause"] is None else found[name]["pause"]
            print(f"  {what['do']}, {name}: {said['seconds']:.2f} s, {said['memory'] / GIB:.1f} GiB", flush=True)
    return found


def measure_start(folder: Path, programs: list[str], runs: int) -> dict[str, Any]:
    """program -> seconds of importing and loading, each time in a process of its own."""
    found: dict[str, Any] = {name: [] for name in programs}
    for run in range(runs + 1):
        for name in programs:
            worker = Worker(name, folder)
            worker.stop()
            if run == 0:  # it has warmed the disk's cache
                continue
            found[name].append({part: worker.loaded[part] for part in ("import", "load")})
            print(f"  start, {name}: {found[name][-1]}", flush=True)
    return found


def measure_memory(folder: Path, programs: list[str], size: int, steps: int) -> dict[str, Any]:
    """program -> bytes of memory that its process has taken at most, after a picture."""
    found: dict[str, Any] = {}
    for name in programs:
        worker = Worker(name, folder)
        found[name] = {"peak": worker.ask(do="picture", size=size, batch=1, steps=steps)["peak"]}
        worker.stop()
        print(f"  memory, {name}: {found[name]['peak'] / GIB:.2f} GiB", flush=True)
    return found


def measure_cold(folder: Path, programs: list[str], runs: int, size: int, steps: int) -> dict[str, Any]:
    """program -> from the start of its process to a picture: seconds of the whole and its parts."""
    found: dict[str, Any] = {name: [] for name in programs}
    for _ in range(runs):
        for name in programs:
            before = time.perf_counter()
            worker = Worker(name, folder)
            said = worker.ask(do="picture", size=size, batch=1, steps=steps)
            whole = time.perf_counter() - before
            worker.stop()
            parts = {"import": worker.loaded["import"], "load": worker.loaded["load"], "picture": said["seconds"]}
            found[name].append({"seconds": whole, **parts})
            print(f"  cold, {name}: {found[name][-1]}", flush=True)
    return found


def measure_error(folder: Path, programs: list[str], size: int) -> dict[str, Any]:
    """program -> distance of its guided prediction from the same library's in float32, relative to the latter's norm.

    The largest over the noise levels. OpenVINO is held against diffusers, whose networks it runs.
    """
    import torch

    references = {"diafano": "diafano fp32", "diffusers": "diffusers fp32", "OpenVINO": "diffusers fp32"}
    predicted: dict[str, Any] = {}
    wanted = {references[name.split()[0]] for name in programs if name.split()[0] in references}
    for name in sorted({*programs, *wanted}):
        with tempfile.TemporaryDirectory() as scratch:
            worker = Worker(name, folder)
            if not worker.ask(do="predictions", size=size, into=f"{scratch}/found.pt").get("cannot"):
                predicted[name] = torch.load(f"{scratch}/found.pt")
            worker.stop()

    def distance(name: str, reference: str) -> float:
        pairs = zip(predicted[name], predicted[reference], strict=True)
        return max(float((one - other).norm() / other.norm()) for one, other in pairs)

    errors = {
        name: {"error": distance(name, references[name.split()[0]]), "reference": references[name.split()[0]]}
        for name in predicted
        if not name.endswith("fp32")
    }
    if {"diafano fp32", "diffusers fp32"} <= predicted.keys():
        errors["diafano fp32"] = {"error": distance("diafano fp32", "diffusers fp32"), "reference": "diffusers fp32"}
    return errors


# the model, and what is made of it once


@contextmanager
def model(folder: Path | None, programs: list[str]) -> Iterator[Path]:
    """The folder with the model in all the forms that the programs read; made where it is not there yet."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model" if folder is None else folder.resolve()
        # Each by a process of its own, whose memory is free again.
        if not (folder / "model_index.json").is_file():
            output_of([sys.executable, str(HERE / "random_model.py"), str(folder), "--dtype", "float16"])
        file = folder / "model.safetensors"
        if "stable-diffusion.cpp" in programs and not file.is_file():
            output_of([sys.executable, "-m", "diafano", "convert", str(folder), str(file), "--dtype", "float16"])
        if "OpenVINO bf16" in programs and not (folder / "openvino" / "unet.bin").is_file():
            convert = f"from pathlib import Path; import programs.with_openvino as o; o.convert(Path({str(folder)!r}))"
            subprocess.run(
                [sys.executable, "-c", convert], cwd=HERE, env=environment(PROGRAMS["OpenVINO bf16"]), check=True
            )
        yield folder


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for name in ("torch", "diffusers", "transformers"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    for folder in sorted(PEERS.glob("*/*.dist-info")):
        name, _, number = folder.name.removesuffix(".dist-info").rpartition("-")
        if name in ("openvino", "stable_diffusion_cpp_python"):
            versions[name] = number
    instructions = [name for name, there in torch.cpu.get_capabilities().items() if there is True]
    found = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(":")[2].strip() for line in found.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "instructions": sorted({"avx512_bf16", "amx_bf16", "avx512_f", "avx2"} & set(instructions)),
        "versions": versions,
    }


# what was found, kept


def kept(path: Path) -> dict[str, Any]:
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {"runs": []}


def keep(path: Path, found: dict[str, Any], run: dict[str, Any]) -> None:
    """Add the run; those go of whose programs each has a later figure for the same work."""
    runs = [*found["runs"], run]

    def needed(index: int) -> bool:
        of = runs[index]
        later = [other for other in runs[index + 1 :] if other["what"] == of["what"]]
        peers = set(of["found"]) - {"diafano"} or set(of["found"])
        return any(all(name not in other["found"] for other in later) for name in peers)

    found["runs"] = [runs[index] for index in range(len(runs)) if needed(index)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*WORK, *PROCESSES, "tables"], help="default: all")
    parser.add_argument("--peers", nargs="+", choices=[*PROGRAMS], help="default: all that are installed")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="edges of the pictures in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="pictures at once")
    parser.add_argument("--steps", type=int, default=20, help="of a whole picture")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB that the programs may take together")
    parser.add_argument("--folder", type=Path, help="where the model is or is to be made, and stays")
    parser.add_argument("--json", type=Path, default=Path("runs/peers.json"))
    parser.add_argument("--write", action="store_true", help="put the tables of the JSON file into docs/speed.md")
    return parser.parse_args()


def measure(
    found: dict[str, Any], folder: Path, programs: list[str], only: list[str], given: argparse.Namespace
) -> None:
    """Everything asked for; each piece is kept in the file as soon as it is done."""
    shapes = [(size, batch) for size in given.size for batch in given.batch]
    if "step" in only:
        command = [sys.executable, str(HERE / "ceilings.py"), *(f"{size}x{batch}" for size, batch in shapes)]
        ceilings = json.loads(output_of(command))
        found["ceilings"] = {**ceilings, "step": {**found.get("ceilings", {}).get("step", {}), **ceilings["step"]}}
    workers = Workers(folder, given.memory)
    for do in (do for do in WORK if do in only):
        for size, batch in shapes[:1] if do == "text" else shapes:
            what = {"do": do, "size": size, "batch": batch}
            if do == "picture":
                what["steps"] = given.steps
            keep(given.json, found, {"what": what, "found": measure_work(workers, programs, given.runs, what)})
    workers.stop_all()
    if "start" in only:
        keep(given.json, found, {"what": {"do": "start"}, "found": measure_start(folder, programs, given.runs)})
    if "memory" in only:
        what = {"do": "memory", "size": given.size[0]}
        keep(given.json, found, {"what": what, "found": measure_memory(folder, programs, given.size[0], MEMORY_STEPS)})
    if "cold" in only:
        what = {"do": "cold", "size": given.size[0], "batch": 1, "steps": given.steps}
        cold = measure_cold(folder, programs, given.runs, given.size[0], given.steps)
        keep(given.json, found, {"what": what, "found": cold})
    if "error" in only:
        what = {"do": "error", "size": given.size[0], "batch": 1}
        keep(given.json, found, {"what": what, "found": measure_error(folder, programs, given.size[0])})


def main() -> None:
    given = arguments()
    asked = given.peers or [*PROGRAMS]
    programs = ["diafano", *(name for name in asked if installed(PROGRAMS[name]) and name != "diafano")]
    missing = [name for name in asked if not installed(PROGRAMS[name])]
    if missing:
        print(f"missing, see `make peers`: {', '.join(missing)}")
    found = kept(given.json)
    only = given.only or [*WORK, *PROCESSES]
    if only != ["tables"]:
        found["machine"], found["missing"] = machine(), [name for name in PROGRAMS if not installed(PROGRAMS[name])]
        with model(given.folder, programs) as folder:
            measure(found, folder, programs, only, given)
    print(tables(found))
    if given.write:
        sys.path.append(str(HERE.parent / "docs" / "scripts"))
        from generated import write_between_markers

        write_between_markers(HERE.parent / "docs" / "speed.md", "speed", tables(found))


if __name__ == "__main__":
    main()
