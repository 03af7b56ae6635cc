"""Decoding and encoding in tiles beside the whole picture: how equal, how long, how much memory.

    .venv/bin/python benchmarks/large_pictures.py [--what decode] [--size 512 --size 1024] [--dtype bfloat16] [--write]

Stable Diffusion 1's autoencoder at its true size, random weights that keep the spread of values from layer to layer,
each measurement in a process of its own. `--write` puts the table into docs/large_pictures.md.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from diafano.engine import tiles
from diafano.engine.memory import keep_freed_memory
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from in_turn import output_of

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS / "scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)

LARGEST_WHOLE = 1024
"""Edge in pixels above which no whole picture is tried: it would take more memory than most machines have."""


def autoencoder(dtype: torch.dtype) -> Autoencoder:
    """v1's shape; every layer keeps the variance of what it is given, so that no rounding is hidden by small values."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    made = Autoencoder(AutoencoderConfig()).to(memory_format=torch.channels_last)
    torch.set_default_dtype(torch.float32)
    for name, parameter in made.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        elif "norm" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.1, 0.3)
    return made.eval()


@torch.inference_mode()
def measure(what: str, size: int, dtype: torch.dtype, in_tiles: bool, result: Path) -> None:
    """Print seconds and the process's peak memory in GiB; write what came out."""
    keep_freed_memory()
    model = autoencoder(dtype)
    latent, pixels = torch.randn(1, 4, size // 8, size // 8), torch.rand(1, 3, size, size) * 2 - 1
    before = time.perf_counter()
    if what == "decode":
        (made,) = tiles.decode(model, latent, tiles=in_tiles)
    else:
        made = tiles.encode(model, pixels, tiles=in_tiles)
    seconds = time.perf_counter() - before
    torch.save(made, result)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def row(what: str, size: int, dtype: str) -> str:
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("whole", "tiles"):
            if name == "whole" and size > LARGEST_WHOLE:
                continue
            result = Path(scratch) / name
            options = ["--what", what, "--size", str(size), "--dtype", dtype, "--child", name, "--result", str(result)]
            seconds, peak = map(float, output_of([sys.executable, __file__, *options]).split())
            found[name] = (seconds, peak, torch.load(result, weights_only=True))
    seconds, peak, made = found["tiles"]
    cells = [what, f"{size}x{size}", dtype]
    if "whole" in found:
        whole_seconds, whole_peak, whole = found["whole"]
        cells += [f"{psnr(made, whole):.1f} dB", f"{seconds / whole_seconds:.2f}", f"{whole_peak:.2f} GiB"]
    else:
        cells += ["", "", ""]
    return "| " + " | ".join([*cells, f"{peak:.2f} GiB"]) + " |"


def psnr(made: Tensor, wanted: Tensor) -> float:
    """Decibels below the range of the wanted values."""
    error = float((made - wanted).double().square().mean())
    span = float(wanted.max() - wanted.min())
    return math.inf if error == 0.0 else 10 * math.log10(span**2 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", action="append", choices=["decode", "encode"], help="default: both")
    parser.add_argument("--size", action="append", type=int, help="default: 512, 1024 and 2048")
    parser.add_argument("--dtype", action="append", choices=["bfloat16", "float32"], help="default: bfloat16")
    parser.add_argument("--write", action="store_true", help="put the table into docs/large_pictures.md")
    parser.add_argument("--child", choices=["whole", "tiles"], help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    work, sizes = given.what or ["decode", "encode"], given.size or [512, 1024, 2048]
    dtypes = given.dtype or ["bfloat16"]
    if given.child:
        measure(work[0], sizes[0], getattr(torch, dtypes[0]), given.child == "tiles", given.result)
        return
    lines = ["| | size | number format | tiles against whole | time, of the whole's | peak memory, whole | in tiles |"]
    lines.append("| --- " * 7 + "|")
    for what in work:
        for dtype in dtypes:
            for size in sizes:
                lines.append(row(what, size, dtype))
                print(lines[-1], flush=True)
    if given.write:
        write_between_markers(DOCS / "large_pictures.md", "tiles", "\n".join(lines))


if __name__ == "__main__":
    main()
