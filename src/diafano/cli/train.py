"""`diafano train`: a recipe becomes a trained network."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diafano.cli import options as option
from diafano.errors import UserError, note

if TYPE_CHECKING:
    import torch

    from diafano.training.loop import Progress
    from diafano.training.loop import Stage as Trained
    from diafano.training.recipe import StageRecipe

CACHE = "cache"
"""What the stages keep in a run's folder to save work."""


class Stage(StrEnum):
    """The three networks of a model, in the order in which they are trained, its tiny decoder for previews, its
    upscaler, and the judge of `evaluate`."""

    autoencoder = "autoencoder"
    text = "text"
    unet = "unet"
    preview = "preview"
    upscaler = "upscaler"
    judge = "judge"


def command(
    stage: Annotated[
        Stage,
        typer.Argument(
            help="autoencoder first, then text, then unet; preview: a tiny decoder; upscaler; judge: that of evaluate.",
            show_default=False,
        ),
    ],
    config: Annotated[Path, typer.Option(help="Recipe: a TOML or YAML file.", metavar="FILE", show_default=False)],
    device: option.Device = "auto",
) -> None:
    """Train one of the three networks of a model on captioned pictures, a tiny decoder for its previews, an upscaler
    for what it draws, or the judge that evaluates it.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    from rich.console import Console

    from diafano.engine.devices import find_device

    where = find_device(device)
    trained, whole = make_stage(stage.value, config, where)
    recipe, output = whole.loop, whole.output

    from diafano.training.begun import changes, keep
    from diafano.training.loop import CHECKPOINT, Training

    changed = changes(output, whole)
    training = Training(trained, recipe, output, where)
    if training.step >= recipe.steps:
        print(f"all {recipe.steps} steps were done before", file=sys.stderr)
    elif training.step > 0:
        print(f"goes on after step {training.step}", file=sys.stderr)
    elif there := earlier_results(output):
        note(
            f"{str(output)!r} holds {', '.join(there)} already, and no checkpoint to go on from: training begins anew,"
            " and files of the same names will be replaced"
        )
    if changed:
        note(
            f"the recipe is another than the one that the run in {output} was begun with ({'; '.join(changed)}): what"
            " is done stays as it was; name another output, or delete that folder, to train anew"
        )
    elif not (output / CHECKPOINT).is_file():
        keep(output, whole)

    console = Console(stderr=True, highlight=False)
    with console.status("starting") as status:

        def report(progress: "Progress") -> None:
            if console.is_terminal:
                status.update(line(progress))
            else:
                print(line(progress), file=sys.stderr, flush=True)

        training.run(report)
    print(output)


def make_stage(stage: str, config: Path, device: "torch.device") -> "tuple[Trained, StageRecipe]":
    """What the loop trains, and its recipe."""
    from diafano.training.recipe import (
        AutoencoderRecipe,
        PreviewRecipe,
        TextRecipe,
        UNetRecipe,
        UpscalerRecipe,
        read_recipe,
    )

    if stage == "autoencoder":
        from diafano.training.stages.autoencoder import AutoencoderStage

        autoencoder = read_recipe(config, AutoencoderRecipe)
        return AutoencoderStage(autoencoder, device), autoencoder
    if stage == "text":
        from diafano.training.stages.text import TextStage

        text = read_recipe(config, TextRecipe)
        return TextStage(text, device), text
    if stage == "unet":
        from diafano.training.stages.unet import UNetStage

        unet = read_recipe(config, UNetRecipe)
        return UNetStage(unet, device), unet
    if stage == "preview":
        from diafano.training.stages.preview import PreviewStage

        preview = read_recipe(config, PreviewRecipe)
        return PreviewStage(preview, device), preview
    if stage == "upscaler":
        from diafano.training.stages.upscaler import UpscalerStage

        upscaler = read_recipe(config, UpscalerRecipe)
        return UpscalerStage(upscaler, device), upscaler
    if stage == "judge":
        from diafano.evaluation.judge_stage import JudgeRecipe, JudgeStage

        judge = read_recipe(config, JudgeRecipe)
        return JudgeStage(judge, device), judge
    raise UserError(f"there is no stage {stage!r}: use autoencoder, text, unet, preview, upscaler or judge")


def earlier_results(output: Path) -> list[str]:
    """What lies in a run's folder before its first step, beside what is kept there to save work."""
    from diafano.training.begun import FILE

    kept = (CACHE, FILE)
    return sorted(entry.name for entry in output.iterdir() if entry.name not in kept and not entry.name.startswith("."))


def line(progress: "Progress") -> str:
    """One line about a run: ``step 40/100  loss 0.123  56.7 pictures/s  1:02 left``."""
    terms = "  ".join(f"{name} {value:.4g}" for name, value in progress.terms.items())
    left = round(progress.seconds_left)
    hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
    time_left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return (
        f"step {progress.step}/{progress.steps}  {terms}  "
        f"{progress.pictures_per_second:.1f} pictures/s  {time_left} left"
    )
