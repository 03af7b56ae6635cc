"""`diafano evaluate`: draw, judge, print, and put the pictures on a sheet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(
    *,
    source: str | None,
    prompts: int,
    settings: Mapping[str, Any],
    seed: int,
    as_json: bool,
    grid: Path | None,
    loading: Mapping[str, Any],
) -> None:
    """Evaluate the model at `source` (None: the one that ships) and print the result.

    `settings` are steps, guidance and sampler; None is the model's own. `loading` are options of `diafano.load`.
    Raises UserError for what cannot be done, as far as possible before anything is drawn.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading the model", total=None)

        import diafano
        from diafano.evaluation.gallery import gallery
        from diafano.evaluation.judge import Judge
        from diafano.evaluation.scoring import evaluate, held_out_prompts
        from diafano.pictures.files import check_target, save_picture
        from diafano.training.data.emoji.sprites import Sprites

        if grid is not None:
            check_target(grid)
        judge = Judge.shipped()
        list(held_out_prompts(judge.objects, prompts, seed))  # complains of impossible numbers
        model = diafano.load(source, **loading)
        progress.update(bar, description="drawing", total=prompts)
        result = evaluate(
            model,
            judge,
            Sprites.shipped(),
            prompts=prompts,
            seed=seed,
            settings=settings,
            objects=model.card.objects,
            on_picture=lambda: progress.advance(bar),
        )

    if grid is not None:
        save_picture(gallery(result), grid)
    print(json.dumps(result.as_json(), indent=2) if as_json else result.table())
