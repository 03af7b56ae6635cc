"""50 guided steps at 512x512 on a GPU: diafano, diafano compiled, diffusers compiled, in turn in one process.

    .venv/bin/python benchmarks/gpu.py [--runs 5] [--steps 50] [--size 512] [--batch 1] [--dtype float16]
                                       [--folder FOLDER] [--json FILE]

The model has Stable Diffusion 1's shape and random weights. Timed is the run of the steps, from embedded texts to the
latent, the GPU's work included; then the whole picture. Compiling comes first and is told apart. Without a GPU nothing
is measured (`--device cpu --small` tries the script itself).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from programs import GUIDANCE, NEGATIVE, PROMPT, SEED

HERE = Path(__file__).parent
Draw = Callable[[], object]


def diafano_runs(folder: Path, given: argparse.Namespace, compiled: bool) -> tuple[Draw, Draw]:
    """The run of the steps alone, and the whole picture."""
    import diafano

    model = diafano.load(folder, device=given.device, dtype=given.dtype, compiled=compiled)
    request = model.request(
        PROMPT,
        negative=NEGATIVE,
        size=(given.size, given.size),
        count=given.batch,
        steps=given.steps,
        guidance=GUIDANCE,
        seed=SEED,
        sampler="ddim",
    )
    plan = model.plan(request)
    (one,) = plan.passes
    with torch.inference_mode():
        texts = model.prompts_of(plan, one)

    @torch.inference_mode()
    def steps() -> None:
        model.denoise(one, texts, model.noise(one, range(given.batch)))

    return steps, lambda: model.draw(request)


def diffusers_runs(folder: Path, given: argparse.Namespace, compiled: bool) -> tuple[Draw, Draw]:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=getattr(torch, given.dtype), safety_checker=None, requires_safety_checker=False
    ).to(given.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    if compiled:
        pipeline.unet.compile(mode="max-autotune")
        pipeline.vae.decoder.compile(mode="max-autotune")
    positive, negative = pipeline.encode_prompt(PROMPT, given.device, given.batch, True, NEGATIVE)
    settings = {
        "width": given.size,
        "height": given.size,
        "num_inference_steps": given.steps,
        "guidance_scale": GUIDANCE,
    }

    def chance() -> list[torch.Generator]:
        return [torch.Generator("cpu").manual_seed(SEED + i) for i in range(given.batch)]

    def steps() -> None:
        texts = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
        pipeline(**texts, **settings, generator=chance(), output_type="latent")

    def picture() -> None:
        texts = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_images_per_prompt": given.batch}
        pipeline(**texts, **settings, generator=chance())

    return steps, picture


PROGRAMS: dict[str, tuple[Callable[..., tuple[Draw, Draw]], bool]] = {
    "diafano": (diafano_runs, False),
    "diafano compiled": (diafano_runs, True),
    "diffusers": (diffusers_runs, False),
    "diffusers compiled": (diffusers_runs, True),
}


def timed(draw: Draw, device: str) -> float:
    """Seconds until the device has done it."""
    if device == "cuda":
        torch.cuda.synchronize()
    before = time.perf_counter()
    draw()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - before


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """program -> seconds of the first run (compiling and all), of each run of the steps, and of each whole picture."""
    runs = {
        name: make(folder, given, compiled) for name, (make, compiled) in PROGRAMS.items() if name in given.programs
    }
    found: dict[str, Any] = {}
    for name, (steps, picture) in runs.items():
        found[name] = {"first": timed(steps, given.device), "steps": [], "picture": []}
        timed(picture, given.device)
    for _ in range(given.runs):
        for name, (steps, picture) in runs.items():
            found[name]["steps"].append(timed(steps, given.device))
            found[name]["picture"].append(timed(picture, given.device))
    return found


def table(found: dict[str, Any], given: argparse.Namespace) -> str:
    lines = [
        f"| {given.steps} guided steps, {given.size}x{given.size}, batch {given.batch}, {given.dtype} | first run, s"
        " | steps, s | whole picture, s | steps: share of diffusers compiled |",
        "| --- | --- | --- | --- | --- |",
    ]
    best = found.get("diffusers compiled")
    for name, row in found.items():
        steps, picture = statistics.median(row["steps"]), statistics.median(row["picture"])
        share = f"{steps / statistics.median(best['steps']):.2f}" if best is not None else ""
        lines.append(f"| {name} | {row['first']:.2f} | {steps:.3f} | {picture:.3f} | {share} |")
    device = torch.cuda.get_device_name() if given.device == "cuda" else "the CPU"
    return "\n".join([*lines, "", f"On {device}, torch {torch.__version__}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=[*PROGRAMS], default=[*PROGRAMS])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow layers, to try the script itself")
    parser.add_argument("--folder", type=Path, help="a diffusers folder, instead of random weights")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: nothing was measured")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        if given.folder is None:
            command = [sys.executable, str(HERE / "random_model.py"), str(folder), "--dtype", "float16"]
            subprocess.run([*command, *(["--small"] if given.small else [])], check=True)
        found = measure(folder, given)
    print(table(found, given))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"settings": str(given), "found": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
