"""`diafano generate --vary ... --prompts ...`: many pictures, a folder, a labelled picture and a table."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from diafano.cli.progress import Bar
from diafano.cli.targets import Targets
from diafano.errors import UserError
from diafano.files import check_folder

if TYPE_CHECKING:
    from diafano.jobs.experiment.axes import Axis
    from diafano.jobs.experiment.running import Drawn, Inputs
    from diafano.request.request import Settings
    from diafano.stable_diffusion import StableDiffusion

FOLDER = Path("experiment")
"""Where nobody says where."""


@dataclass(frozen=True)
class ExperimentOptions:
    """What varies from picture to picture; if nothing does, it is no experiment."""

    title: ClassVar[str] = "Many pictures"

    vary: Annotated[
        list[str],
        typer.Option(
            help="A setting and values for it, such as steps=10,20,50: draws one picture for each, into the folder"
            " --output, with a labelled picture and a table of all; what is there already is not drawn again. Up to"
            " three, for all combinations.",
            metavar="NAME=A,B",
        ),
    ] = field(default_factory=list)
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='File of prompts, one a line, to be drawn like that; or JSON lines: {"prompt": "...", "steps": 20}.',
            metavar="FILE",
        ),
    ] = None

    def axes(self, prompt: str | None, targets: Targets) -> "list[Axis]":
        """What was typed, checked as far as it can be without a model. A file of prompts is the last axis."""
        if not self.vary and self.prompts is None:
            return []
        from diafano.jobs.experiment.axes import cells_of, read_axis, read_prompts

        if any(other is not None for other in (targets.grid, targets.filmstrip, targets.previews.path)):
            raise UserError("--vary and --prompts make a grid of their own: leave out --grid, --filmstrip, --preview")
        found = [read_axis(one) for one in self.vary]
        if self.prompts is not None:
            if prompt is not None:
                raise UserError(f"there is a PROMPT, {prompt!r}, and a file of prompts: leave one of them out")
            found.append(read_prompts(self.prompts))
        cells_of(found)
        return found

    def folder(self, output: Path | None) -> Path:
        """The folder to write, which may have to be made."""
        from diafano.pictures.metadata import FORMATS

        if output is None:
            output = FOLDER
        if output.suffix.lower() in FORMATS or os.path.isfile(output):
            raise UserError(f"an experiment writes many files, not only {str(output)!r}: give the name of a folder")
        check_folder(output)
        return output

    def run(
        self,
        model: "StableDiffusion",
        prompt: str | None,
        axes: "Sequence[Axis]",
        output: Path,
        inputs: "Inputs",
        tagged: Callable[[str], str],
        settings: "Settings",
        bar: Bar,
    ) -> None:
        """Draw, with a bar over all steps, and print the names of the files that show all."""
        from diafano.jobs.experiment.running import CSV, GRID, MARKDOWN, run_experiment

        drawn: list[Drawn] = []
        try:
            run_experiment(
                model,
                prompt,
                axes,
                output,
                inputs=inputs,
                tagged=tagged,
                on_start=lambda pictures, steps: bar.begin(f"drawing {pictures} pictures", steps),
                on_step=lambda *_: bar.advance(),
                on_drawn=drawn.append,
                **settings,
            )
        finally:
            if drawn:
                fresh = sum(one.seconds is not None for one in drawn)
                print(f"pictures drawn: {fresh}, there already: {len(drawn) - fresh}", file=sys.stderr)
                for path in (output / name for name in (GRID, CSV, MARKDOWN)):
                    if path.is_file():  # or why it could not be written has been said
                        print(path)
