"""`diafano evaluate`: draw, judge, print, and put the pictures on a sheet."""

from collections.abc import Mapping
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from diafano.cli import options as option
from diafano.cli.progress import bar
from diafano.cli.targets import replacing
from diafano.errors import UserError


class Language(StrEnum):
    """What the prompts can be in."""

    en = "en"
    it = "it"


def command(
    model: option.Model = None,
    prompts: Annotated[int, typer.Option(help="How many prompts to draw.", metavar="N")] = 200,
    steps: Annotated[int | None, typer.Option(help="Steps a picture. Default: the model's own.", metavar="N")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance. Default: the model's own.", metavar="G")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler. Default: the model's own.", metavar="S")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the prompts and their noise.", metavar="N")] = 0,
    language: Annotated[Language, typer.Option(help="What the prompts are in: English or Italian.")] = Language.en,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    grid: Annotated[
        Path | None, typer.Option(help="Also write the pictures, marked pass or fail.", metavar="FILE")
    ] = None,
    dtype: option.DType = "auto",
    device: option.Device = "auto",
    revision: option.Revision = None,
) -> None:
    """Draw prompts that training never saw and judge whether the pictures show them.

    Scores single objects, two objects, counting, colour, position, background and colour binding. The judge shares no
    weights with the model; its own accuracy on true scenes is printed beside. The last line says by how much the
    network's prediction changes when a caption's two names are exchanged ("a house above a tree"): near 0, who stands
    where is chance.
    """
    run(
        source=model,
        prompts=prompts,
        settings={"steps": steps, "guidance": guidance, "sampler": sampler, "upscale": 1.0},  # the judge looks at 64x64
        seed=seed,
        language=language.value,
        as_json=json,
        grid=grid,
        loading={"device": device, "dtype": dtype, "revision": revision},
    )


def run(
    *,
    source: str | None,
    prompts: int,
    settings: Mapping[str, Any],
    seed: int,
    language: Literal["en", "it"],
    as_json: bool,
    grid: Path | None,
    loading: Mapping[str, Any],
) -> None:
    """Evaluate the model at `source` (None: the one that ships) and print the result.

    `settings` are steps, guidance, sampler and upscale; None is the model's own. `language` is the prompts'. `loading`
    are options of `diafano.load`.
    Raises UserError for what cannot be done, as far as possible before anything is drawn.
    """
    with bar() as progress:
        import diafano
        from diafano.evaluation.gallery import gallery
        from diafano.evaluation.judge import Judge
        from diafano.evaluation.scoring import evaluate, held_out_prompts
        from diafano.pictures.files import check_target, save_picture
        from diafano.training.data.emoji.languages import GRAMMARS
        from diafano.training.data.emoji.sprites import Sprites

        if grid is not None:
            check_target(grid)
        judge = Judge.shipped()
        list(held_out_prompts(judge.objects, prompts, seed))  # complains of impossible numbers
        model = diafano.load(source, **loading)
        progress.begin("drawing", prompts)
        result = evaluate(
            model,
            judge,
            Sprites.shipped(),
            prompts=prompts,
            seed=seed,
            settings=settings,
            objects=model.card.objects,
            grammar=GRAMMARS[language](),
            on_picture=progress.advance,
        )

    failed: UserError | None = None
    if grid is not None:
        try:
            replacing(grid, lambda: save_picture(gallery(result), grid))
        except UserError as error:  # the figures took longer than the sheet
            failed = error
    print(dumps(result.as_json(), indent=2) if as_json else result.table())
    if failed is not None:
        raise failed
