"""What the tiny decoder for previews saves and costs, beside the embedded model's own decoder.

    .venv/bin/python benchmarks/previews.py [--prompts 20] [--write]

PSNR is between the two decoders' pixels of clean estimates, from the first step to the last, on held-out prompts.
`--write` puts the table into docs/fast.md.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import diafano
from diafano.engine.memory import keep_freed_memory
from diafano.evaluation.scoring import held_out_prompts

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS / "scripts"))
from generated import write_between_markers  # noqa: E402 (the scripts there share it)

STEPS = (1, 5, 10, 25, 50)
EDGES = (64, 512)
REPEATS = 15


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="put the table into docs/fast.md")
    given = parser.parse_args()
    keep_freed_memory()
    model = diafano.load()
    decoder = diafano.load_tiny_decoder(None, model)
    estimates: dict[int, list[Tensor]] = {step: [] for step in STEPS}

    def on_step(step: int, sigma: float, noisy: Tensor, clean: Tensor) -> None:
        if step + 1 in estimates:
            estimates[step + 1].append(clean.clone())

    for prompt in held_out_prompts(model.card.objects or (), given.prompts, 0):
        model.generate(prompt.text, seed=prompt.seed, steps=STEPS[-1], on_step=on_step)
    cells = []
    for latents in estimates.values():
        whole = torch.cat(latents)
        own, tiny = torch.stack([*model.decode(whole)]).clamp(-1, 1), decoder.decode(whole).clamp(-1, 1)
        error = (own - tiny).square().mean(dim=(1, 2, 3))
        cells.append(f"{(10 * torch.log10(4 / error)).median():.1f} dB")
    lines = [
        "| clean estimate of step | " + " | ".join(f"{step} of {STEPS[-1]}" for step in STEPS) + " |",
        "| --- " * (len(STEPS) + 1) + "|",
        "| PSNR to the real decoder | " + " | ".join(cells) + " |",
        "",
    ]
    said = []
    for edge in EDGES:
        latent = torch.randn(1, 4, edge // decoder.factor, edge // decoder.factor, device=model.device)
        own_ms, tiny_ms = milliseconds(lambda x=latent: [*model.decode(x)], lambda x=latent: decoder.decode(x))
        said.append(f"a picture of {edge}x{edge} takes it {tiny_ms:.1f} ms and the real decoder {own_ms:.1f} ms")
    lines.append(f"{given.prompts} held-out prompts, medians; on the machine of the run, {', '.join(said)}.")
    print("\n".join(lines))
    if given.write:
        write_between_markers(DOCS / "fast.md", "previews", "\n".join(lines))


def milliseconds(*runs: Callable[[], object]) -> list[float]:
    """Medians, the runs taking turns."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS + 2):
        for run, times in zip(runs, taken, strict=True):
            before = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - before))
    return [statistics.median(times[2:]) for times in taken]


if __name__ == "__main__":
    main()
