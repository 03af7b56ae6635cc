"""How far diafano is from diffusers and transformers, in float32, with random weights: each part, and whole runs.

    .venv/bin/python benchmarks/parity.py [--family sd1 --family sd2] [--size 512] [--steps 50] [--write]

Writes a model of each family with random weights into a temporary folder (4.3 GB) and, one library in memory at a
time, gives the same inputs to each part of both; then both draw the same picture with every one of `SAMPLERS`. What is
found is kept in a JSON file after each measurement, so that `--resume` goes on after an interruption. Prints markdown
tables; `--write` puts them into docs/parity.md.
"""

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

import diafano
from diafano.checkpoints.parts import read_part
from diafano.families.folder_parts import AUTOENCODER, TEXT_ENCODERS, UNET
from diafano.sampling.samplers.table import find_sampler
from diafano.text_encoder.tokenizer import Tokenizer
from random_model import FAMILIES, quiet, write_random_model, write_scheduler

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS / "scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)

PROMPT, NEGATIVE, GUIDANCE, SEED = "a red apple on the left of a penguin", "blue", 7.5, 7
SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}

Outputs = list[Tensor]


# parts: each function loads one part, answers the inputs and lets the part go


def their_text_encoder(folder: Path, ids: Tensor) -> Outputs:
    return [transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(ids).last_hidden_state]


def our_text_encoder(folder: Path, ids: Tensor) -> Outputs:
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    return [read_part(folder / "text_encoder", *TEXT_ENCODERS, tokenizer=tokenizer).filled().eval()(ids)]


def their_unet(folder: Path, latent: Tensor, timestep: Tensor, text: Tensor) -> Outputs:
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    return [unet(latent, timestep, text).sample]


def our_unet(folder: Path, latent: Tensor, timestep: Tensor, text: Tensor) -> Outputs:
    return [read_part(folder / "unet", UNET).filled().eval()(latent, timestep, text)]


def their_image_encoder(folder: Path, pixels: Tensor) -> Outputs:
    autoencoder = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    found, scale = autoencoder.encode(pixels).latent_dist, autoencoder.config.scaling_factor
    return [found.mean * scale, found.logvar + 2 * math.log(scale)]


def our_image_encoder(folder: Path, pixels: Tensor) -> Outputs:
    found = read_part(folder / "vae", AUTOENCODER).filled().eval().encode(pixels)
    return [found.mean, found.logvar]


def their_decoder(folder: Path, latent: Tensor) -> Outputs:
    autoencoder = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    return [autoencoder.decode(latent / autoencoder.config.scaling_factor).sample]


def our_decoder(folder: Path, latent: Tensor) -> Outputs:
    return [read_part(folder / "vae", AUTOENCODER).filled().eval().decode(latent)]


PARTS: dict[str, tuple[Callable[..., Outputs], Callable[..., Outputs]]] = {
    "Image encoder": (their_image_encoder, our_image_encoder),
    "Text encoder": (their_text_encoder, our_text_encoder),
    "UNet": (their_unet, our_unet),
    "Decoder": (their_decoder, our_decoder),
}


def inputs(part: str, folder: Path, size: int) -> tuple[Tensor, ...]:
    """What the part is given, one picture's worth (the UNet: two timesteps)."""
    generator = torch.Generator().manual_seed(SEED)
    if part == "Image encoder":
        return (torch.rand(1, 3, size, size, generator=generator) * 2 - 1,)
    if part == "Text encoder":
        return (Tokenizer.from_folder(folder / "tokenizer")([NEGATIVE, PROMPT]),)
    latent = torch.randn(2, 4, size // 8, size // 8, generator=generator)
    if part == "Decoder":
        return (latent[:1],)
    width = json.loads((folder / "unet/config.json").read_text())["cross_attention_dim"]
    return latent, torch.tensor([981.0, 20.5]), torch.randn(2, 77, width, generator=generator)


@torch.inference_mode()
def compare_part(part: str, folder: Path, size: int) -> dict[str, Any]:
    """The largest difference of any output, relative to that output's largest value."""
    given = inputs(part, folder, size)
    wanted, made = (side(folder, *given) for side in PARTS[part])
    gc.collect()
    if not all(bool(torch.isfinite(output).all()) and float(output.std()) > 0.0 for output in wanted):
        raise SystemExit(f"{part}: the oracle's output is constant or not finite, so equality would mean nothing")
    difference = max(
        float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(made, wanted, strict=True)
    )
    return {"output": str(tuple(wanted[0].shape[1:])), "relative difference": difference}


# whole runs


def their_picture(folder: Path, sampler: str, size: int, steps: int) -> np.ndarray:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    # DDIM's default would cut the clean estimate to [-1, 1]; Stable Diffusion's own configurations do not.
    options = {"clip_sample": False} if sampler == "ddim" else {}
    pipeline.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config, **options)
    picture = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=size,
        height=size,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(SEED),
    ).images[0]
    return as_numbers(picture)


def our_picture(folder: Path, sampler: str, size: int, steps: int) -> np.ndarray:
    picture = diafano.load(folder, device="cpu", dtype="float32").generate(
        PROMPT,
        negative=NEGATIVE,
        size=(size, size),
        steps=steps,
        guidance=GUIDANCE,
        seed=SEED,
        sampler=sampler,
        like="diffusers",
    )[0]
    return as_numbers(picture)


def as_numbers(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def compare_run(sampler: str, folder: Path, size: int, steps: int, others: dict[str, np.ndarray]) -> dict[str, Any]:
    """PSNR in decibels (None: the pictures are equal), and the largest difference of a pixel.

    `others` are the pictures that diffusers drew with other samplers, to which this one is added: the PSNR to the
    nearest of them says what another sampler alone would make of it.
    """
    seconds = {}
    pictures = []
    for name, draw in (("diffusers", their_picture), ("diafano", our_picture)):
        before = time.perf_counter()
        pictures.append(draw(folder, sampler, size, steps))
        seconds[name] = time.perf_counter() - before
        gc.collect()
    wanted, made = pictures
    to_others = [psnr(wanted, other) for name, other in others.items() if name != sampler]
    others[sampler] = wanted
    return {
        "psnr": psnr(made, wanted),
        "psnr to the nearest other sampler": max((value for value in to_others if value is not None), default=None),
        "largest difference": int(np.abs(made - wanted).max()),
        "contrast": float(wanted.std()),
        "seconds, weights loaded too": seconds,
    }


def psnr(one: np.ndarray, other: np.ndarray) -> float | None:
    """Decibels; None for equal pictures."""
    error = float(((one - other) ** 2).mean())
    return None if error == 0.0 else 10 * math.log10(255**2 / error)


# what was found, kept and told


def key_of(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row.get(name) for name in ("model", "part", "sampler", "prediction", "size", "steps"))


def recorded(rows: list[dict[str, Any]], row: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The rows with this one in the place of its older self, written to `path`."""
    kept = [*(other for other in rows if key_of(other) != key_of(row)), row]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return kept


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: the parts, then the runs."""
    lines = ["| model | part | output | largest relative difference |", "| --- | --- | --- | --- |"]
    parts = [row for row in rows if "part" in row]
    for row in sorted(parts, key=lambda row: (row["model"], list(PARTS).index(row["part"]))):
        lines.append(f"| {row['model']} | {row['part']} | {row['output']} | {row['relative difference']:.1e} |")
    lines += [
        "",
        "| model | sampler (prediction) | size | steps | PSNR, dB | largest difference, of 255 | control, dB |",
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    runs = [row for row in rows if "sampler" in row]
    for row in sorted(runs, key=lambda row: (row["model"], row["size"], row["steps"])):
        label = f"{find_sampler(row['sampler']).label} ({row['prediction']})"
        decibels = "equal" if row["psnr"] is None else f"{row['psnr']:.1f}"
        nearest = row["psnr to the nearest other sampler"]
        control = "" if nearest is None else f"{nearest:.1f}"
        cells = [row["model"], label, f"{row['size']}x{row['size']}", row["steps"], decibels, row["largest difference"]]
        lines.append("| " + " | ".join(map(str, [*cells, control])) + " |")
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    return "\n".join([*lines, "", f"Measured with {versions}."])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="default: both, one after the other")
    parser.add_argument("--small", action="store_true", help="narrow layers, to try the script itself")
    parser.add_argument("--size", type=int, default=512, help="edge of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", action="append", choices=[*PARTS, *SAMPLERS], help="default: all, in this order")
    parser.add_argument("--json", type=Path, help="default: runs/parity.json, or runs/parity_small.json")
    parser.add_argument("--resume", action="store_true", help="leave out what the JSON file has")
    parser.add_argument("--write", action="store_true", help="put the tables of the JSON file into docs/parity.md")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    quiet()
    path = given.json or Path("runs") / ("parity_small.json" if given.small else "parity.json")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    names = given.only or [*PARTS, *SAMPLERS]
    for family in given.family or FAMILIES:
        model = f"{family}, narrow layers" if given.small else family
        done = {key_of(row) for row in rows} if given.resume else set()
        asked = [row for name in names if key_of(row := planned(name, family, model, given)) not in done]
        if not asked:
            continue
        drawn: dict[str, np.ndarray] = {}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_random_model(folder, family, small=given.small)
            gc.collect()
            for row in asked:
                if "part" in row:
                    found = compare_part(row["part"], folder, given.size)
                else:
                    write_scheduler(folder, {"noise": "epsilon", "v": "v_prediction"}[row["prediction"]])
                    found = compare_run(row["sampler"], folder, given.size, given.steps, drawn)
                rows = recorded(rows, row | found, path)
                print(row | found, flush=True)
    print(tables(rows))
    if given.write:
        write_between_markers(DOCS / "parity.md", "parity", tables(rows))


def planned(name: str, family: str, model: str, given: argparse.Namespace) -> dict[str, Any]:
    """What is to be measured: the part or sampler of that name, at the size that was asked for."""
    if name in PARTS:
        return {"model": model, "part": name, "size": given.size}
    prediction = "v" if family == "sd2" else "noise"
    return {"model": model, "sampler": name, "prediction": prediction, "size": given.size, "steps": given.steps}


if __name__ == "__main__":
    main()
