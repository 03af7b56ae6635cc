"""A training step of the UNet, diafano's and diffusers': seconds and peak memory, at full size and at the embedded one.

    .venv/bin/python benchmarks/training_step.py [--shape sd1 --shape embedded] [--runs 2] [--size 512] [--batch 1]
                                                 [--weights float32] [--json FILE] [--write]

The step is the same for both: noisy latents, the squared error of the prediction, backwards in bfloat16 autocast,
gradients clipped to norm 1, AdamW (fused). diafano's is that of its training loop, with and without its moving average
of the weights; diffusers' is the loop of its text-to-image example, which has none unless it is asked for. Both once
with gradient checkpointing and once without. "embedded" is the shape, batch and passes of recipes/embedded/unet.toml,
and diafano runs its passes side by side as the recipe says; "sd1" is Stable Diffusion 1's UNet, whose float32 weights,
gradients, moments and averages take 17 GB: `--weights bfloat16` halves that, for both.

Each measurement is a process of its own, of which the first step is not counted; the processes are run in turn.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from in_turn import in_turn, output_of
from peer_tables import GIB, head, row
from peer_worker import memory

HERE = Path(__file__).parent
SHAPES = ("sd1", "embedded")
AVERAGED, CHECKPOINTING = "moving average", "checkpointing"
PROGRAMS = (
    "diafano",
    f"diafano, {AVERAGED}",
    f"diafano, {CHECKPOINTING}",
    "diffusers",
    f"diffusers, {CHECKPOINTING}",
)
TIMED = 2
"""Steps of one process; the first one more is not counted."""
RATE, BETAS, DECAY, CLIP = 1e-4, (0.9, 0.999), 0.01, 1.0


class Enough(Exception):
    """Ends a training run after the steps that were to be timed."""


def clock(ends: list[float], steps: int) -> None:
    """Called when a step begins: notes the time, and ends the run after `steps` and the first."""
    ends.append(time.perf_counter())
    if len(ends) == steps + 2:
        raise Enough


def shape_of(shape: str, given: argparse.Namespace) -> dict[str, Any]:
    """What is trained: the UNet's configuration, edge of the latent, batch, passes in an update and side by side."""
    from diafano.networks.unet import UNetConfig
    from diafano.training.recipe import UNetRecipe, read_recipe

    if shape == "sd1":
        return {"network": UNetConfig(), "edge": given.size // 8, "batch": given.batch, "accumulate": 1, "workers": 1}
    recipe = read_recipe(HERE.parent / "recipes" / "embedded" / "unet.toml", UNetRecipe)
    edge = recipe.data.size // 8
    loop = recipe.loop
    return {
        "network": recipe.network,
        "edge": edge,
        "batch": loop.batch,
        "accumulate": loop.accumulate,
        "workers": loop.workers,
    }


def batches(of: dict[str, Any]) -> Callable[[int], tuple[Any, Any, Any, Any]]:
    """number -> latents, noise, timesteps, texts of that batch."""
    import torch

    def draw(number: int) -> tuple[Any, Any, Any, Any]:
        chance = torch.Generator().manual_seed(number)
        latents, noise = torch.randn(
            2, of["batch"], of["network"].in_channels, of["edge"], of["edge"], generator=chance
        )
        timesteps = torch.randint(0, 1000, (of["batch"],), generator=chance)
        return latents, noise, timesteps, torch.randn(of["batch"], 77, of["network"].text_width, generator=chance)

    return draw


def train_with_diafano(of: dict[str, Any], switch: str, dtype: str) -> list[float]:
    from diafano.engine.memory import keep_freed_memory
    from diafano.engine.threads import wait_asleep

    wait_asleep()
    keep_freed_memory()
    import torch

    from diafano.networks.unet import UNet
    from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
    from diafano.training.loop import Training
    from diafano.training.recipe import LoopRecipe

    draw, ends, schedule = batches(of), list[float](), NoiseSchedule(ScheduleConfig())

    class Stage:
        """The UNet's stage with latents and texts of chance."""

        def __init__(self) -> None:
            self.trained: torch.nn.Module = UNet(of["network"]).to(getattr(torch, dtype))

        def loss(self, number: int, step: int) -> tuple[Any, dict[str, Any]]:
            if number % of["accumulate"] == 0:
                clock(ends, TIMED)
            latents, noise, timesteps, text = draw(number)
            noisy = schedule.add_noise(latents, noise, timesteps)
            error = self.trained(noisy, timesteps, text).float() - schedule.target(latents, noise, timesteps)
            return error.square().mean(), {}

        # The run ends before either is called.
        def preview(self) -> Any:
            raise NotImplementedError

        def save(self, folder: Path) -> None:
            raise NotImplementedError

    recipe = LoopRecipe(
        steps=1000,
        batch=of["batch"],
        accumulate=of["accumulate"],
        workers=of["workers"],
        learning_rate=RATE,
        betas=BETAS,
        weight_decay=DECAY,
        clip=CLIP,
        tensorboard=False,
        ema=0.999 if switch == AVERAGED else 0.0,
        gradient_checkpointing=switch == CHECKPOINTING,
    )
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        Training(Stage(), recipe, Path(folder), torch.device("cpu")).run()
    return ends


def train_with_diffusers(of: dict[str, Any], switch: str, dtype: str) -> list[float]:
    warnings.simplefilter("ignore")
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel

    config = of["network"]
    attends = config.attention
    unet = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        down_block_types=["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        up_block_types=["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        attention_head_dim=list(config.heads),  # diffusers' name for their number
        cross_attention_dim=config.text_width,
    ).to(getattr(torch, dtype))
    unet.train()
    if switch == CHECKPOINTING:
        unet.enable_gradient_checkpointing()
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True)
    draw, ends, number = batches(of), list[float](), 0
    try:
        while True:
            clock(ends, TIMED)
            for _ in range(of["accumulate"]):
                latents, noise, timesteps, text = draw(number)
                number += 1
                with torch.autocast("cpu", torch.bfloat16):
                    noisy = scheduler.add_noise(latents, noise, timesteps)
                    prediction = unet(noisy, timesteps, text, return_dict=False)[0]
                    loss = torch.nn.functional.mse_loss(prediction.float(), noise)
                (loss / of["accumulate"]).backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), CLIP)
            optimiser.step()
            optimiser.zero_grad()
    except Enough:
        return ends


def measure_here(given: argparse.Namespace) -> None:
    """One program in this process; prints JSON."""
    name, _, switch = given.measure.partition(", ")
    train = train_with_diafano if name == "diafano" else train_with_diffusers
    of = shape_of(given.shape[0], given)
    ends = train(of, switch, given.weights)
    seconds = [after - before for before, after in pairwise(ends[1:])]
    pictures = of["batch"] * of["accumulate"]
    print(json.dumps({"seconds": seconds, "peak": memory("VmHWM"), "pictures": pictures}))


def table(found: dict[str, Any]) -> str:
    lines = head(["training step", "program", "median, s", "pictures a second", "peak, GiB"])
    for shape, programs in found.items():
        for name, runs in programs.items():
            seconds = statistics.median(second for run in runs for second in run["seconds"])
            peak = max(run["peak"] for run in runs) / GIB
            lines.append(row([shape, name, f"{seconds:.2f}", f"{runs[0]['pictures'] / seconds:.2f}", f"{peak:.1f}"]))
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: both")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="edge of sd1's pictures in pixels")
    parser.add_argument("--batch", type=int, default=1, help="of sd1's pictures")
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, default=Path("runs/training_step.json"))
    parser.add_argument("--write", action="store_true", help="put the table of the JSON file into docs/speed.md")
    parser.add_argument("--measure", choices=PROGRAMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.measure is not None:
        measure_here(given)
        return
    found: dict[str, Any] = json.loads(given.json.read_text()) if given.json.is_file() else {}
    for shape in given.shape or SHAPES:
        options = ["--shape", shape, "--weights", given.weights, "--size", str(given.size), "--batch", str(given.batch)]
        command = [sys.executable, "-W", "ignore", __file__, *options]
        named = f"{shape}, {given.weights} weights"
        if shape == "sd1":
            named += f", {given.size}x{given.size}, batch {given.batch}"
        measured = in_turn(
            {name: [*command, "--measure", name] for name in given.programs},
            given.runs,
            lambda command: json.loads(output_of(command)),
            warm=False,  # each warms itself by its first step
        )
        found[named] = {**found.get(named, {}), **measured}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    if given.write:
        sys.path.append(str(HERE.parent / "docs" / "scripts"))
        from generated import write_between_markers

        write_between_markers(HERE.parent / "docs" / "speed.md", "training", table(found))


if __name__ == "__main__":
    main()
