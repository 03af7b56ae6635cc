"""The commands: what can be typed, and what a mistake looks like.

A command's code is imported when the command runs, so that `diafano --help` needs neither torch nor any model. What a
command does is in `cli_<command>.py`, or in the package that it is about; the rules for its values are in the code
that it calls, never here.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diafano.cli import options as option
from diafano.cli.messages import complain, sentence_about, show_notes
from diafano.engine.memory import keep_freed_memory
from diafano.engine.threads import wait_asleep
from diafano.errors import UserError

WRONG_VALUE, INTERRUPTED = 2, 130
"""Exit codes: what was typed cannot be done; Ctrl-C, as shells count it (128 + SIGINT)."""

app = typer.Typer(
    help="Stable Diffusion that you can see through.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: paragraphs are wrapped to the terminal, and it comes in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Stage(StrEnum):
    """The three networks of a model, in the order in which they are trained, its tiny decoder for previews, and the
    judge of `evaluate`."""

    autoencoder = "autoencoder"
    text = "text"
    unet = "unet"
    preview = "preview"
    judge = "judge"


@app.callback(invoke_without_command=True)
def diafano(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Stable Diffusion that you can see through."""
    if version:
        from diafano import __version__

        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(short_help="Draw pictures from a text.")
def generate(
    context: typer.Context,
    prompt: option.Prompt = None,
    redrawn: option.Redrawn = None,
    model: option.Model = None,
    negative: option.Negative = None,
    steps: option.Steps = None,
    guidance: option.Guidance = None,
    guidance_interval: option.GuidanceInterval = None,
    guidance_rescale: option.GuidanceRescale = None,
    sampler: option.Sampler = None,
    schedule: option.Schedule = None,
    seed: option.Seed = None,
    variation_seed: option.VariationSeed = None,
    variation_strength: option.VariationStrength = None,
    size: option.Size = None,
    count: option.Count = None,
    vary: option.Vary = None,
    prompts: option.Prompts = None,
    image: option.Image = None,
    strength: option.Strength = None,
    mask: option.Mask = None,
    mask_blur: option.MaskBlur = None,
    masked_content: option.MaskedContent = None,
    invert_mask: option.InvertMask = None,
    only_masked: option.OnlyMasked = None,
    mask_padding: option.MaskPadding = None,
    outpaint: option.Outpaint = None,
    hires: option.Hires = None,
    hires_size: option.HiresSize = None,
    hires_steps: option.HiresSteps = None,
    hires_strength: option.HiresStrength = None,
    hires_upscaler: option.HiresUpscaler = None,
    lora: option.Lora = None,
    lora_dir: option.LoraDir = None,
    embedding: option.Embedding = None,
    vae: option.Vae = None,
    control: option.ControlNet = None,
    control_image: option.ControlImage = None,
    control_strength: option.ControlStrength = None,
    control_start: option.ControlStart = None,
    control_end: option.ControlEnd = None,
    allow_partial: option.AllowPartial = False,
    tileable: option.Tileable = None,
    tiles: option.Tiles = None,
    like: option.Like = None,
    clip_skip: option.ClipSkip = None,
    fast: option.Fast = None,
    deep_cache: option.DeepCache = None,
    eta: option.Eta = None,
    s_churn: option.SChurn = None,
    s_noise: option.SNoise = None,
    dtype: option.DType = "auto",
    device: option.Device = "auto",
    compiled: option.Compile = False,
    output: option.Output = option.PICTURE,
    grid: option.Grid = None,
    filmstrip: option.Filmstrip = None,
    preview: option.Preview = None,
    preview_every: option.PreviewEvery = None,
    preview_decoder: option.PreviewDecoder = None,
    tokenizer: option.TokenizerFolder = None,
    prediction: option.Prediction = None,
    ema: option.Ema = False,
    revision: option.Revision = None,
) -> None:
    """Draw pictures from a text, or draw a picture again.

    The names of the files written go to standard output, progress and the seed to standard error. Each picture
    carries its settings: in PNG the text chunk `parameters`, in JPEG and WebP the EXIF user comment.
    """
    from diafano.cli import generate as cli_generate
    from diafano.cli.addons import addon_options

    cli_generate.generate(
        prompt,
        settings=cli_generate.settings_of(context.params),
        redrawn=redrawn,
        source=model,
        loading=cli_generate.loading_of(context.params),
        output=output,
        grid=grid,
        filmstrip=filmstrip,
        previews=cli_generate.PreviewOptions(preview, preview_every, preview_decoder),
        image=image,
        mask=mask,
        vary=vary or [],
        prompts=prompts,
        addons=addon_options(context.params),
    )


@app.command(short_help="Show how a prompt is read: its tokens, their weights, its chunks, what changes on the way.")
def tokens(
    prompt: Annotated[str, typer.Argument(help="The prompt.", metavar="PROMPT", show_default=False)],
    like: option.Like = None,
    steps: option.Steps = None,
    model: option.Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with each token's id.")] = False,
) -> None:
    """Show how a prompt is read, by diafano and A1111, or by the program that --like names.

    A text encoder reads chunks of 75 tokens. A "·" stands between the tokens of one word; (words:1.2) have that weight.
    """
    from diafano.cli import tokens as cli_tokens

    cli_tokens.tokens(prompt, like=like, steps=steps, source=model, as_json=json)


@app.command(short_help="List the samplers and schedules that `generate` knows.")
def samplers() -> None:
    """List the samplers with their other names, order and cost per step, and the schedules."""
    from diafano.cli import samplers as cli_samplers

    cli_samplers.samplers()


@app.command(short_help="Show a picture drowning in noise, in pixels and in latents.")
def noise(
    picture: Annotated[Path, typer.Argument(help="A picture file.", metavar="PICTURE", show_default=False)],
    steps: Annotated[int, typer.Option(help="How many steps of noise to show.", metavar="N")] = 8,
    model: option.Model = None,
    seed: Annotated[int, typer.Option(help="Of the noise.", metavar="N")] = 0,
    dtype: option.DType = "auto",
    device: option.Device = "auto",
    output: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")] = Path("noise.png"),
    revision: option.Revision = None,
) -> None:
    """Show a picture drowning in noise: noise is added in N steps until nothing else is left.

    Upper row: noise added to the pixels. Lower row: noise added to the latent, which the decoder then turns back into
    pixels. The first column is without noise.
    """
    from diafano.cli import noise as cli_noise

    loading = {"device": device, "dtype": dtype, "revision": revision}
    cli_noise.noise(picture, steps=steps, source=model, seed=seed, loading=loading, output=output)


@app.command(short_help="Print a model's parts, their sizes and a picture's way through them.")
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="sd1, sd2, embedded, or a model's folder, file or hub id.", metavar="MODEL", show_default=False
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="Width and height of the picture. Default: the model's own.", metavar="WxH")
    ] = None,
    prediction: option.Prediction = None,
    ema: option.Ema = False,
    revision: option.Revision = None,
) -> None:
    """Print a model's parts, how many parameters each has, and the shapes on a picture's way through them.

    Nothing is computed and no weights are allocated, so this works for models larger than the memory. Of a single file
    it also says what it is and on what evidence, which tensors are used, spare or missing, and what is suspicious.
    """
    from diafano.cli import inspect as cli_inspect

    cli_inspect.inspect(model, size=size, prediction=prediction, ema=ema, revision=revision)


@app.command(short_help="Train one of the networks on captioned pictures.")
def train(
    stage: Annotated[
        Stage,
        typer.Argument(
            help="autoencoder first, then text, then unet; preview: a tiny decoder; or the judge of evaluate.",
            show_default=False,
        ),
    ],
    config: Annotated[Path, typer.Option(help="Recipe: a TOML or YAML file.", metavar="FILE", show_default=False)],
    device: option.Device = "auto",
) -> None:
    """Train one of the three networks of a model on captioned pictures, a tiny decoder for its previews, or the judge
    that evaluates what it draws.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    from diafano.cli import train as cli_train

    cli_train.train(stage.value, config, device=device)


@app.command(short_help="Draw held-out prompts and judge whether the pictures show them.")
def evaluate(
    model: option.Model = None,
    prompts: Annotated[int, typer.Option(help="How many prompts to draw.", metavar="N")] = 200,
    steps: Annotated[int | None, typer.Option(help="Steps a picture. Default: the model's own.", metavar="N")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance. Default: the model's own.", metavar="G")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler. Default: the model's own.", metavar="S")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the prompts and their noise.", metavar="N")] = 0,
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
    weights with the model; its own accuracy on true scenes is printed beside.
    """
    from diafano.cli import evaluate as evaluation

    evaluation.run(
        source=model,
        prompts=prompts,
        settings={"steps": steps, "guidance": guidance, "sampler": sampler},
        seed=seed,
        as_json=json,
        grid=grid,
        loading={"device": device, "dtype": dtype, "revision": revision},
    )


@app.command(short_help="Write emoji scenes with captions into a folder, to look at or to train on.")
def scenes(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", metavar="FOLDER", show_default=False)],
    count: Annotated[int, typer.Option(help="How many scenes.", metavar="N", min=1)] = 100,
    size: Annotated[int, typer.Option(help="Edge of the square pictures in pixels.", metavar="N", min=16)] = 128,
    seed: Annotated[int, typer.Option(help="Chooses the scenes.", metavar="N", min=0)] = 0,
    held_out: Annotated[bool, typer.Option("--held-out", help="Scenes that training never shows.")] = False,
    font: Annotated[
        Path | None, typer.Option(help="Colour emoji font. Default: Noto Color Emoji as installed.", metavar="FILE")
    ] = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Use the sprites that come with diafano, not a font.")
    ] = False,
) -> None:
    """Write emoji scenes with captions into a folder: pictures and metadata.jsonl, as `train` reads them."""
    from diafano.cli import scenes as cli_scenes

    cli_scenes.scenes(folder, count=count, size=size, seed=seed, held_out=held_out, font=font, shipped=shipped)


@app.command(short_help="Copy a model: folder or single file, in another number format.")
def convert(
    source: Annotated[
        str, typer.Argument(help="A model's folder, file or hub id.", metavar="SOURCE", show_default=False)
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="Folder to write, or a name ending in .safetensors for a single file.",
            metavar="TARGET",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        str, typer.Option(help="Number format to write: float32, bfloat16 or float16.", metavar="D")
    ] = "float16",
    shard: Annotated[
        int | None, typer.Option(help="Split weights into files of at most so many MiB.", metavar="MIB", min=1)
    ] = None,
    tokenizer: option.TokenizerFolder = None,
    prediction: option.Prediction = None,
    ema: option.Ema = False,
    revision: option.Revision = None,
) -> None:
    """Copy a model from a folder (diffusers' layout), a single file (the original's names) or the hub to either form.

    The target appears as a whole or not at all; files beside the model's own stay.
    """
    import diafano as package
    from diafano.checkpoints.diffusers import save_folder
    from diafano.checkpoints.single_file import SUFFIX, save_file
    from diafano.checkpoints.writing import MAX_SHARD_BYTES

    model = package.load(
        source,
        device="cpu",
        dtype="float32",
        tokenizer=tokenizer,
        prediction=prediction,
        ema=ema,
        revision=revision,
    )
    if target.suffix.lower() != SUFFIX:
        save_folder(model, target, dtype, MAX_SHARD_BYTES if shard is None else shard * 2**20)
    elif shard is not None:
        raise UserError(f"a single file is not split, but --shard {shard} was given: leave it out")
    else:
        save_file(model, target, dtype)
    typer.echo(target)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, or 2 after one sentence on standard error, or 130 after Ctrl-C."""
    with show_notes():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    wait_asleep()
    keep_freed_memory()
    try:
        code = app(args=arguments, prog_name="diafano", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer has made this of it
            complain("interrupted")
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        sentence = sentence_about(error)
        if sentence is None:
            raise
        complain(sentence)
        return WRONG_VALUE
