"""`diafano generate`: a prompt, or a picture that remembers its own, becomes picture files."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diafano.engine.memory import starting
from diafano.files import slug, unused

if TYPE_CHECKING:
    from torch import Tensor

    from diafano.cli.addons import AddonOptions
    from diafano.explain.preview import Preview
    from diafano.request.recorded import Recorded
    from diafano.request.request import Request, Settings
    from diafano.stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class PreviewOptions:
    """Where previews go, and how they are made, as it was typed."""

    path: Path | None = None
    every: int | None = None
    decoder: Path | None = None

    def check(self) -> None:
        """Raises UserError for what can be told to be wrong before a model is there."""
        from diafano.errors import UserError
        from diafano.pictures.files import check_target

        if self.path is not None:
            check_target(self.path)
        elif self.every is not None or self.decoder is not None:
            raise UserError("there is no preview to make: give --preview FILE, or leave out what else is said of it")

    def preview(self, model: "StableDiffusion", *, embedded: bool) -> "Preview | None":
        """What `on_step` calls; the `embedded` model has a tiny decoder of its own."""
        if self.path is None:
            return None
        from diafano.checkpoints.tiny_decoder import load_tiny_decoder
        from diafano.explain.preview import Preview

        tiny = self.decoder is not None or embedded
        decoder = load_tiny_decoder(self.decoder, model) if tiny else None
        return Preview(model, self.path, every=self.every, decoder=decoder)


def generate(
    prompt: str | None,
    *,
    settings: "Settings",
    redrawn: Path | None,
    source: str | None,
    loading: Mapping[str, Any],
    output: Path,
    grid: Path | None,
    filmstrip: Path | None,
    previews: PreviewOptions,
    addons: "AddonOptions",
    image: Path | None = None,
    mask: Path | None = None,
    vary: Sequence[str] = (),
    prompts: Path | None = None,
) -> None:
    """Draw the pictures, write them and print their names.

    `settings` are those of `StableDiffusion.request`, `loading` those of `diafano.load`. What is None in them, and the
    prompt, come from the picture `redrawn` if there is one. `image` and `mask` are pictures to draw over. What is to
    `vary`, and a file of `prompts`, make an experiment of it, see `cli.experiment`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading the model", total=None)

        with starting():
            import diafano
            from diafano.errors import UserError
            from diafano.explain.filmstrip import Filmstrip
            from diafano.pictures.files import check_target, read_picture, save_picture
            from diafano.pictures.pixels import grid as in_grid
            from diafano.request.recorded import with_overrides, without_picture

        axes = []
        if vary or prompts is not None:
            from diafano.cli import experiment as cli_experiment
            from diafano.jobs.experiment.running import Inputs

            axes = cli_experiment.axes(vary, prompts, prompt, [grid, filmstrip, previews.path])
            output = cli_experiment.folder(output)
        elif prompt is None and redrawn is None:
            raise UserError("there is nothing to draw: give a PROMPT, or a picture to draw again with --from")
        # Before the work, because nobody wants to hear after it that there is no such folder.
        if not axes and not output.is_dir():
            check_target(output)
        for sheet in (grid, filmstrip):
            if sheet is not None:
                check_target(sheet)
        previews.check()

        recorded = None if redrawn is None else _recorded(redrawn)
        if recorded is not None:
            recorded = without_picture(recorded) if image is None else recorded
            settings = with_overrides(recorded, settings)
        over, painted = (None if path is None else read_picture(path) for path in (image, mask))
        with starting():
            model = diafano.load(source, **loading, **addons.loading())
        was = {} if recorded is None else recorded.addons
        controls, lost = addons.control.controls(model, was, allow_partial=addons.allow_partial)
        if recorded is not None:
            prompt = _honoured(recorded, prompt, model, addons, lost)
        if axes:
            same = Inputs(over, painted, controls)
            cli_experiment.run(model, prompt, axes, output, same, addons.tagged, settings, progress, bar)
            return
        assert prompt is not None
        prompt = addons.tagged(prompt)
        request, start = model.prepare(prompt, image=over, mask=painted, **settings)
        plan = model.plan(request)
        _tell_of_chunks(model, request)
        strip = None if filmstrip is None else Filmstrip(model, plan.steps)
        preview = previews.preview(model, embedded=source is None and addons.vae is None)

        def on_step(step: int, sigma: float, noisy: "Tensor", clean: "Tensor") -> None:
            progress.advance(bar)
            for watching in (strip, preview):
                if watching is not None:
                    watching(step, sigma, noisy, clean)

        progress.update(bar, description="drawing", total=plan.steps * len(plan.batches))
        pictures = model.draw(request, on_step, start, controls)

    paths = name_files(output, prompt, _seeds(request))
    for path, picture in zip(paths, pictures, strict=True):
        save_picture(picture, path)
        print(path)
    if grid is not None:
        save_picture(in_grid(pictures), grid, pictures[0].info.get("parameters"))
        print(grid)
    if filmstrip is not None and strip is not None:
        save_picture(strip.picture(), filmstrip, pictures[0].info.get("parameters"))
        print(filmstrip)
    if previews.path is not None:
        print(previews.path)
    if settings.get("seed") is None:
        print(f"seed {request.seed}", file=sys.stderr)
    if request.varies and settings.get("variation_seed") is None:
        print(f"variation seed {request.variation_seed}", file=sys.stderr)


def _tell_of_chunks(model: "StableDiffusion", request: "Request") -> None:
    """How long the prompts are, where one of them takes more than a chunk; `diafano tokens` says it of any."""
    from diafano.request.programs.table import find_program
    from diafano.text_encoder.lora_tags import without_tags
    from diafano.text_encoder.prompt_reading import count_sentence, read_prompt

    weighting = find_program(request.like).weighting
    for name, text in (("prompt", without_tags(request.prompt)), ("negative prompt", request.negative)):
        parts = read_prompt(text, model.tokenizer, weighting, request.steps)
        if any(len(held.chunks) > 1 for part in parts for held in part.texts):
            print(f"{name}: {count_sentence(parts)}", file=sys.stderr)


def loading_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the command's options that say how the model is loaded."""
    names = ("device", "dtype", "tokenizer", "prediction", "ema", "revision", "compiled")
    return {name: options[name] for name in names}


def settings_of(options: Mapping[str, Any]) -> "Settings":
    """Those of the command's options that are settings of a request."""
    from diafano.request.request import Settings

    return cast(Settings, {name: options[name] for name in Settings.__annotations__ if name in options})


def _recorded(path: Path) -> "Recorded":
    """What a picture file says of its request."""
    from diafano.errors import UserError
    from diafano.pictures.files import read_parameters
    from diafano.request.recorded import from_infotext

    text = read_parameters(path)
    if text is None:
        raise UserError(f"the picture {str(path)!r} carries no settings to draw it again with: type them yourself")
    return from_infotext(text)


def _honoured(
    recorded: "Recorded", prompt: str | None, model: "StableDiffusion", addons: "AddonOptions", lost: list[str]
) -> str:
    """The prompt to draw, and notes about what keeps the picture from being the same."""
    from diafano.errors import note

    lost = [*recorded.ignored, *lost]
    if prompt is None:
        prompt, missing = model.addons.honoured(recorded.prompt, recorded.addons, addons.lora_names)
        lost += missing
    if recorded.model is not None and recorded.model != model.card.name:
        note(
            f"the picture was drawn by the model {recorded.model!r}, not by {model.card.name!r}: it will be another"
            " one, unless --model names that model"
        )
    if lost:
        note(f"of the picture's settings, these are left out: {', '.join(lost)}")
    return prompt


def _seeds(request: "Request") -> list[str]:
    """What tells the pictures apart in their files' names."""
    places = range(request.batch_position, request.batch_position + request.count)
    if request.variation_seed is not None and request.varies:
        return [f"{request.seed}-{request.variation_seed + place}" for place in places]
    return [str(request.seed + place) for place in places]


def name_files(output: Path, prompt: str, seeds: Sequence[str]) -> list[Path]:
    """A file for each seed.

    A folder gets names made of prompt and seed, which replace nothing. A file name is taken as it is for one picture,
    and numbered for several: ``apples-1.png``, ``apples-2.png``.
    """
    if output.is_dir():
        return [unused(output / f"{slug(prompt)}-{seed}.png") for seed in seeds]
    if len(seeds) == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, len(seeds) + 1)]
