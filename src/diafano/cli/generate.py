"""`diafano generate`: a prompt, or a picture that remembers its own, becomes picture files."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from diafano.cli.addons import AddonOptions, named_upscalers
from diafano.cli.experiment import ExperimentOptions
from diafano.cli.options import Loading
from diafano.cli.panels import essential
from diafano.cli.progress import Bar, bar
from diafano.cli.targets import Targets
from diafano.engine.memory import starting
from diafano.errors import UserError, note
from diafano.request.keywords import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from torch import Tensor

    from diafano.explain.filmstrip import Filmstrip
    from diafano.request.recorded import Recorded
    from diafano.request.request import Request
    from diafano.sampling.control import Control
    from diafano.sampling.init_image import InitImage
    from diafano.stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class PictureFiles:
    """Pictures to draw over."""

    title: ClassVar[str] = "Drawing over a picture"

    image: Annotated[
        Path | None, typer.Option(help="Picture to draw over. Its size is taken, or the nearest.", metavar="PICTURE")
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Picture of its shape, white or painted where it is drawn anew, black or transparent elsewhere.",
            metavar="PICTURE",
        ),
    ] = None


@dataclass(frozen=True)
class Options:
    """Everything that can be typed."""

    prompt: Annotated[
        str | None, typer.Argument(help="What the picture shows.", metavar="[PROMPT]", show_default=False)
    ] = None
    redrawn: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Draw this picture again, from the settings in its file (diafano's, A1111's); what else is said here"
            " overrides them.",
            metavar="PICTURE",
        ),
    ] = None
    settings: Settings = field(default_factory=Settings)
    pictures: PictureFiles = field(default_factory=PictureFiles)
    targets: Targets = field(default_factory=Targets)
    experiment: ExperimentOptions = field(default_factory=ExperimentOptions)
    loading: Loading = field(default_factory=Loading)
    addons: AddonOptions = field(default_factory=AddonOptions)


@essential(
    *("negative", "steps", "guidance", "sampler", "seed", "size", "count"),
    *("image", "output", "model"),
)
def command(options: Options) -> None:
    """Draw pictures from a text, or draw a picture again.

    The names of the files written go to standard output, progress and the seed to standard error. Each picture
    carries its settings: in PNG the text chunk `parameters`, in JPEG and WebP the EXIF user comment.
    """
    generate(options)


def generate(options: Options) -> None:
    """Draw the pictures, write them and print their names.

    What is None in the settings, and the prompt, come from the picture `redrawn` if there is one. Raises UserError for
    what cannot be done, as far as possible before anything is drawn.
    """
    with bar() as progress:
        with starting():
            import diafano
            from diafano.checkpoints.loading import is_embedded
            from diafano.pictures.files import read_mask, read_picture

        targets, addons = options.targets, options.addons
        axes = options.experiment.axes(options.prompt, targets)
        if not axes and options.prompt is None and options.redrawn is None:
            raise UserError("there is nothing to draw: give a PROMPT, or a picture to draw again with --from")
        folder = options.experiment.folder(targets.output) if axes else None
        targets.check(pictures=folder is None)
        typed, upscalers = named_upscalers(options.settings)
        options = replace(options, settings=typed)
        recorded, settings = restored(options)
        files = options.pictures
        image = None if files.image is None else read_picture(files.image)
        mask = None if files.mask is None else read_mask(files.mask)
        with starting():
            model = diafano.load(options.loading.model, **options.loading.arguments(), **addons.loading(upscalers))
        if recorded is not None:  # once more: upscalers that it names may be the model's
            recorded, settings = restored(options, model.addons.knows_upscaler)
        was = {} if recorded is None else recorded.addons
        controls, lost = addons.control.controls(model, was, allow_partial=addons.allow_partial)
        prompt = options.prompt if recorded is None else prompt_again(recorded, options, model, lost)
        if folder is not None:
            from diafano.jobs.experiment.running import Inputs

            inputs = Inputs(image, mask, controls)
            options.experiment.run(model, prompt, axes, folder, inputs, addons.tagged, settings, progress)
            return
        assert prompt is not None
        prompt = addons.tagged(prompt)
        request, start = model.prepare(prompt, image=image, mask=mask, **settings)
        _tell_of_chunks(model, request)
        if is_embedded(options.loading.model):
            _tell_of_unknown_words(model, prompt)
        pictures, strip = drawn(options, model, request, start, controls, progress)

    # Before the pictures: where they cannot be written, whoever knows the seed can draw them again.
    if settings.get("seed") is None:
        print(f"seed {request.seed}", file=sys.stderr)
    if request.varies and settings.get("variation_seed") is None:
        print(f"variation seed {request.variation_seed}", file=sys.stderr)
    targets.write(pictures, prompt, _seeds(request), strip)


def restored(
    options: Options, knows_upscaler: "Callable[[str], bool]" = lambda name: True
) -> "tuple[Recorded | None, Settings]":
    """What the picture to draw again says, and the settings with what was typed instead of what it says."""
    if options.redrawn is None:
        return None, options.settings
    from diafano.pictures.files import read_parameters, read_texts
    from diafano.pictures.infotext import program_of
    from diafano.request.recorded import from_infotext, with_overrides, without_picture

    text = read_parameters(options.redrawn)
    if text is None:
        other = program_of(read_texts(options.redrawn))
        whose = "no settings" if other is None else f"settings of {other}, not of A1111,"
        raise UserError(
            f"the picture {str(options.redrawn)!r} carries {whose} to draw it again with: type them yourself"
        )
    recorded = from_infotext(text, knows_upscaler)
    if options.pictures.image is None:
        recorded = without_picture(recorded)
    return recorded, with_overrides(recorded, options.settings)


def prompt_again(recorded: "Recorded", options: Options, model: "StableDiffusion", lost: list[str]) -> str:
    """The prompt to draw, and notes about what keeps the picture from being the same."""
    lost, prompt = [*recorded.ignored, *lost], options.prompt
    if prompt is None:
        prompt, missing = model.addons.honoured(recorded.prompt, recorded.addons, options.addons.lora_names)
        lost += missing
    if recorded.model is not None and recorded.model != model.card.name:
        note(
            f"the picture was drawn by the model {recorded.model!r}, not by {model.card.name!r}: it will be another"
            " one, unless --model names that model"
        )
    if lost:
        note(f"of the picture's settings, these are left out: {', '.join(lost)}")
    return prompt


def drawn(
    options: Options,
    model: "StableDiffusion",
    request: "Request",
    start: "InitImage | None",
    controls: "Sequence[Control]",
    progress: Bar,
) -> "tuple[list[Image.Image], Filmstrip | None]":
    """The pictures, and the film of their steps if there is to be one; the bar and the previews go along."""
    from diafano.checkpoints.loading import is_embedded
    from diafano.explain.filmstrip import Filmstrip

    plan = model.plan(request)
    strip = None if options.targets.filmstrip is None else Filmstrip(model, plan.steps)
    embedded = is_embedded(options.loading.model) and options.addons.vae is None
    preview = options.targets.previews.preview(model, embedded=embedded)

    def on_step(step: int, sigma: float, noisy: "Tensor", clean: "Tensor") -> None:
        progress.advance()
        for watching in (strip, preview):
            if watching is not None:
                watching(step, sigma, noisy, clean)

    progress.begin("drawing", plan.steps * len(plan.batches))
    return model.draw(request, on_step, start, controls), strip


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


def _tell_of_unknown_words(model: "StableDiffusion", prompt: str) -> None:
    """Which words the embedded model has never seen: it draws something for them all the same."""
    from diafano.training.data.emoji.languages import languages_of
    from diafano.training.data.emoji.words import never_seen

    if model.card.objects is not None:
        said = never_seen(prompt, "the embedded model", model.card.objects, languages_of(model.card.languages))
        if said is not None:
            note(said)


def _seeds(request: "Request") -> list[str]:
    """What tells the pictures apart in their files' names."""
    places = range(request.batch_position, request.batch_position + request.count)
    if request.variation_seed is not None and request.varies:
        return [f"{request.seed}-{request.variation_seed + place}" for place in places]
    return [str(request.seed + place) for place in places]
