"""How long a Stable Diffusion 1 of 2 GB in float16 takes to load, and in how much memory: diafano and diffusers.

    .venv/bin/python benchmarks/load_time.py [--runs 5] [--small] [--folder FOLDER] [--json FILE] [--write]

Writes a model with random weights into a temporary folder (or takes the diffusers folder FOLDER), and from it the
single file. Then each of these runs in a fresh process, in turn: `import torch`; `import diafano` and all that loading
and drawing import; loading the folder and the single file with diafano in the file's own format, and as `--dtype auto`
does (which computes in float16 on no CPU, and so converts); loading the folder with diffusers. Loading maps files, so a
weight may not be read before it is used: "ready" counts until one number of every page was read as well. Peak memory is
the process's resident set, mapped pages included. `--write` puts the table into docs/loading.md.

diffusers loads faster and in less memory with accelerate, which this project does not need: to have it measured at its
best, install that beside (`pip install --target FOLDER --no-deps accelerate`, then PYTHONPATH=FOLDER). What was used is
printed.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from in_turn import in_turn, output_of

sys.path.append(str(Path(__file__).parents[1] / "docs" / "scripts"))
from generated import write_between_markers

PROGRAM = """
import json, resource, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
model = {load}
loaded = time.perf_counter()
for part in {parts}:
    for weight in part.parameters():
        weight.detach().as_strided((weight.numel(),), (1,))[:: 4096 // weight.element_size()].sum()
ready = time.perf_counter()
print(json.dumps({{
    "import": imported - start, "load": loaded - imported, "ready": ready - imported,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}}))
"""
DIAFANO = """
import torch, diafano
from diafano.engine.memory import without_collecting
with without_collecting():  # as `diafano.load` does
    import diafano.checkpoints.diffusers, diafano.checkpoints.single_file
"""
DIFFUSERS = """
import warnings
warnings.simplefilter("ignore")
import torch, diffusers, transformers
from diffusers import StableDiffusionPipeline
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
"""
OURS = "(model.text_encoder, model.unet, model.autoencoder)"
TORCH, IMPORT, FOLDER, FILE, PEER = "import torch", "import diafano", "diafano, folder", "diafano, file", "diffusers"
AUTO = "diafano, file, --dtype auto"
DOCUMENT = Path(__file__).parents[1] / "docs/loading.md"
MIB = 2**20


def programs(folder: Path, file: Path) -> dict[str, list[str]]:
    """Row -> command, which prints one JSON object."""
    single = f"diafano.load({str(file)!r}, device='cpu', tokenizer={str(folder / 'tokenizer')!r}, dtype="
    loads = {
        TORCH: ("import torch", "None", "()"),
        IMPORT: (DIAFANO, "None", "()"),
        FOLDER: (DIAFANO, f"diafano.load({str(folder)!r}, device='cpu', dtype=torch.float16)", OURS),
        FILE: (DIAFANO, f"{single}torch.float16)", OURS),
        AUTO: (DIAFANO, f"{single}'auto')", OURS),
        PEER: (
            DIFFUSERS,
            f"StableDiffusionPipeline.from_pretrained({str(folder)!r}, torch_dtype=torch.float16, safety_checker=None)",
            "(model.text_encoder, model.unet, model.vae)",
        ),
    }
    return {
        name: [sys.executable, "-W", "ignore", "-c", PROGRAM.format(imports=imports, load=load, parts=parts)]
        for name, (imports, load, parts) in loads.items()
    }


def measured(command: list[str]) -> dict[str, float]:
    """What the program says of itself, and `process`: seconds from its start to its end, the interpreter's included."""
    before = time.perf_counter()
    said: dict[str, float] = json.loads(output_of(command))
    return {**said, "process": time.perf_counter() - before}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| median of a fresh process | import, s | load, s | ready, s | whole process, s | peak memory, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        times = " | ".join(f"{row[column]:.2f}" for column in ("import", "load", "ready", "process"))
        lines.append(f"| {name} | {times} | {row['peak'] / MIB:.0f} |")
    return "\n".join(lines)


def verdicts(rows: dict[str, dict[str, float]], size: int) -> dict[str, float]:
    """The ratios that the project promises something about; `size` is that of the weights in bytes."""
    return {
        "seconds that import diafano adds to import torch": rows[IMPORT]["import"] - rows[TORCH]["import"],
        "folder: load, diafano / diffusers": rows[FOLDER]["load"] / rows[PEER]["load"],
        "folder: ready, diafano / diffusers": rows[FOLDER]["ready"] / rows[PEER]["ready"],
        "folder: whole process, diafano / diffusers": rows[FOLDER]["process"] / rows[PEER]["process"],
        "file / diffusers' folder: load": rows[FILE]["load"] / rows[PEER]["load"],
        "file / diffusers' folder: ready": rows[FILE]["ready"] / rows[PEER]["ready"],
        "folder: peak memory / size of the weights": rows[FOLDER]["peak"] / size,
        "file: peak memory / size of the weights": rows[FILE]["peak"] / size,
        "file, --dtype auto: peak memory / size of the weights": rows[AUTO]["peak"] / size,
        "diffusers: peak memory / size of the weights": rows[PEER]["peak"] / size,
        "import torch: peak memory / size of the weights": rows[TORCH]["peak"] / size,
    }


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "diffusers", "transformers", "accelerate"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--small", action="store_true", help="narrow layers, to try the script itself")
    arguments.add_argument("--folder", type=Path, help="a diffusers folder in float16, instead of random weights")
    arguments.add_argument("--write", action="store_true", help="put the figures into docs/loading.md")
    arguments.add_argument("--json", type=Path, help="write everything that was measured")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, file = Path(scratch) / "model", Path(scratch) / "model.safetensors"
        # Made by commands: what this process holds in memory would count as the peak of its children.
        if given.folder is None:
            writer = [sys.executable, str(Path(__file__).with_name("random_model.py")), str(folder)]
            output_of([*writer, "--dtype", "float16", *(["--small"] if given.small else [])])
        else:
            folder = given.folder.resolve()
        output_of([sys.executable, "-m", "diafano", "convert", str(folder), str(file), "--dtype", "float16"])
        size = file.stat().st_size
        runs = in_turn(programs(folder, file), given.runs, measured)
    rows = {name: medians(values) for name, values in runs.items()}
    found: dict[str, Any] = verdicts(rows, size)
    said = [f"{name} {version}" for name, version in versions().items()]
    lines = [f"Weights of {size / 1e9:.2f} GB in float16; {given.runs} runs; {', '.join(said)}.", "", table(rows), ""]
    lines += ["| ratio | |", "| --- | --- |", *(f"| {name} | {value:.2f} |" for name, value in found.items())]
    print("\n".join(lines))
    if given.write:
        write_between_markers(DOCUMENT, "loading", "\n".join(lines))
    if given.json is not None:
        everything = {"bytes": size, "versions": versions(), "medians": rows, "ratios": found, "runs": runs}
        given.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
