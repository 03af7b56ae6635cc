"""`diafano generate --vary ... --prompts ...`: many pictures, a folder, a labelled picture and a table."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diafano.cli.options import PICTURE
from diafano.errors import UserError
from diafano.jobs.experiment.axes import Axis, cells_of, read_axis, read_prompts
from diafano.jobs.experiment.running import CSV, GRID, MARKDOWN, Drawn, Inputs, run_experiment
from diafano.pictures.metadata import FORMATS

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from diafano.request.request import Settings
    from diafano.stable_diffusion import StableDiffusion

FOLDER = Path("experiment")
"""Where nobody says where."""


def axes(vary: Sequence[str], prompts: Path | None, prompt: str | None, others: Sequence[Path | None]) -> list[Axis]:
    """What was typed, checked as far as it can be without a model. A file of prompts is the last axis.

    `others` are --grid, --filmstrip and --preview, which an experiment does not have.
    """
    if any(other is not None for other in others):
        raise UserError("--vary and --prompts make a grid of their own: leave out --grid, --filmstrip, --preview")
    found = [read_axis(one) for one in vary]
    if prompts is not None:
        if prompt is not None:
            raise UserError(f"there is a PROMPT, {prompt!r}, and a file of prompts: leave one of them out")
        found.append(read_prompts(prompts))
    cells_of(found)
    return found


def folder(output: Path) -> Path:
    """The folder to write, which may have to be made."""
    if output == PICTURE:  # nobody said where
        output = FOLDER
    if output.suffix.lower() in FORMATS or output.is_file():
        raise UserError(f"an experiment writes many files, not only {str(output)!r}: give the name of a folder")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {str(output.parent)!r} to make {output.name!r} in: make it first")
    return output


def run(
    model: "StableDiffusion",
    prompt: str | None,
    axes: Sequence[Axis],
    output: Path,
    inputs: Inputs,
    tagged: Callable[[str], str],
    settings: "Settings",
    progress: "Progress",
    bar: "TaskID",
) -> None:
    """Draw, with a bar over all steps, and print the names of the files that show all."""
    drawn: list[Drawn] = []

    def on_start(pictures: int, steps: int) -> None:
        progress.update(bar, description=f"drawing {pictures} pictures", total=steps)

    def on_step(*_: object) -> None:
        progress.advance(bar)

    try:
        run_experiment(
            model,
            prompt,
            axes,
            output,
            inputs=inputs,
            tagged=tagged,
            on_start=on_start,
            on_step=on_step,
            on_drawn=drawn.append,
            **settings,
        )
    finally:
        if drawn:
            fresh = sum(one.seconds is not None for one in drawn)
            print(f"pictures drawn: {fresh}, there already: {len(drawn) - fresh}", file=sys.stderr)
            for name in (GRID, CSV, MARKDOWN):
                print(output / name)
