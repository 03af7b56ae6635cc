"""The commands, and what a mistake looks like.

A command's code is imported when the command runs, so that `diafano --help` needs neither torch nor any model. What can
be typed for a command and what it does is in the module of its name beside this one; the rules for its values are in
the code that it calls, never here.
"""

from typing import Annotated, ClassVar

import typer

from diafano.cli.late import LateGroup
from diafano.cli.messages import complain, sentence_about, show_notes, steady_streams
from diafano.engine.memory import keep_freed_memory

UNHEARD, WRONG_VALUE, INTERRUPTED = 1, 2, 130
"""Exit codes: all is done, but standard output did not take what was said of it; what was typed cannot be done; Ctrl-C,
as shells count it (128 + SIGINT)."""


class Commands(LateGroup):
    """All commands, in the order in which they are listed."""

    topics: ClassVar = {
        "Drawing": {
            "generate": "Draw pictures from a text.",
            "upscale": "Make pictures larger, by a network or a filter.",
            "samplers": "List the samplers and schedules that `generate` knows.",
            "objects": "List what the embedded model was trained to draw.",
        },
        "Seeing inside": {
            "tokens": "Show how a prompt is read: its tokens, their weights, its chunks, what changes on the way.",
            "noise": "Show a picture drowning in noise, in pixels and in latents.",
            "inspect": "Print a model's parts, their sizes and a picture's way through them.",
        },
        "Training": {
            "recipes": "Write recipes that train a model on your own pictures.",
            "train": "Train one of the networks on captioned pictures.",
            "evaluate": "Draw held-out prompts and judge whether the pictures show them.",
            "scenes": "Write emoji scenes with captions into a folder, to look at or to train on.",
        },
        "Serving": {
            "serve": "Draw for clients: one queue, diafano's own interface and OpenAI's.",
        },
        "Models": {
            "convert": "Copy a model: folder or single file, in another number format.",
        },
    }


app = typer.Typer(
    cls=Commands,
    help="Stable Diffusion that you can see through.",
    rich_markup_mode=None,  # plain help: paragraphs are wrapped to the terminal, and it comes in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, or 2 after one sentence on standard error, or 130 after Ctrl-C.

    1 says that the command did its work and could not tell of it: standard output is full, closed or broken.
    """
    with steady_streams() as out, show_notes():
        code = _run(arguments)
        out.flush()
        if out.failure is None or code != 0:
            return code
        if not isinstance(out.failure, BrokenPipeError):  # there the reader has seen enough, as `head` does
            reason = out.failure.strerror or out.failure
            complain(f"standard output cannot be written ({reason}): all else is done, but what it said there is lost")
        return UNHEARD


def _run(arguments: list[str] | None) -> int:
    keep_freed_memory()
    try:
        code = app(args=arguments, prog_name="diafano", standalone_mode=False)
        if code == INTERRUPTED:  # typer has made this of it
            complain("interrupted")
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        sentence = sentence_about(error)
        if sentence is None:
            raise
        complain(sentence)
        return WRONG_VALUE
