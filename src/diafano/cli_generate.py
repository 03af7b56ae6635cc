"""`diafano generate`: a prompt becomes picture files."""

import itertools
import re
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST_NAME = 60
"""Letters of a prompt that a file's name takes."""


def generate(
    prompt: str,
    *,
    settings: Mapping[str, object],
    source: str | None,
    loading: Mapping[str, Any],
    output: Path,
    filmstrip: Path | None,
) -> None:
    """Draw the pictures, write them and print their names.

    `settings` are those of `StableDiffusion.request`, `loading` those of `diafano.load`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading the model", total=None)

        import diafano
        from diafano.filmstrip import Filmstrip
        from diafano.picture import check_target, save_picture

        # Before the work, because nobody wants to hear after it that there is no such folder.
        if not output.is_dir():
            check_target(output)
        if filmstrip is not None:
            check_target(filmstrip)

        model = diafano.load(source, **loading)
        request = model.request(prompt, **settings)
        strip = None if filmstrip is None else Filmstrip(model, request.steps)

        def on_step(step: int, sigma: float, noisy: object, clean: object) -> None:
            progress.advance(bar)
            if strip is not None:
                strip(step, sigma, noisy, clean)  # type: ignore[arg-type]

        progress.update(bar, description="drawing", total=request.steps * len(model.batches(request)))
        pictures = model.draw(request, on_step)

    seeds = range(request.seed, request.seed + request.count)
    paths = name_files(output, prompt, seeds)
    for path, picture in zip(paths, pictures, strict=True):
        save_picture(picture, path)
        print(path)
    if filmstrip is not None and strip is not None:
        save_picture(strip.picture(), filmstrip, pictures[0].info.get("parameters"))
        print(filmstrip)
    if settings.get("seed") is None:
        print(f"seed {request.seed}", file=sys.stderr)


def name_files(output: Path, prompt: str, seeds: range) -> list[Path]:
    """A file for each seed.

    A folder gets names made of prompt and seed, which replace nothing. A file name is taken as it is for one picture,
    and numbered for several: ``apples-1.png``, ``apples-2.png``.
    """
    if output.is_dir():
        return [_unused(output / f"{slug(prompt)}-{seed}.png") for seed in seeds]
    if len(seeds) == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, len(seeds) + 1)]


def slug(prompt: str) -> str:
    """``Two red äpples, on blue!`` -> ``two-red-apples-on-blue``; letters of any script stay."""
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", prompt.lower()) if not unicodedata.combining(letter)
    )
    return re.sub(r"[\W_]+", "-", plain)[:LONGEST_NAME].strip("-") or "picture"


def _unused(path: Path) -> Path:
    if not path.exists():
        return path
    return next(
        other for number in itertools.count(2) if not (other := path.with_stem(f"{path.stem}-{number}")).exists()
    )
