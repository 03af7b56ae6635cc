"""What `diafano generate` writes, and that it can be written: said before the work, not after it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from diafano.errors import UserError, note
from diafano.files import check_folder, numbered, refusal, slug, with_number

if TYPE_CHECKING:
    from PIL import Image

    from diafano.explain.filmstrip import Filmstrip
    from diafano.explain.preview import Preview
    from diafano.stable_diffusion import StableDiffusion

PICTURE = Path("picture.png")
"""Where nobody says where; numbered, as nobody said that it may be replaced."""


@dataclass(frozen=True)
class Previews:
    """Where previews go, and how they are made."""

    title: ClassVar[str] = "Previews"

    path: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            help="Picture file that shows, while it is drawn, what the picture looks like so far.",
            metavar="FILE",
        ),
    ] = None
    every: Annotated[
        int | None,
        typer.Option(
            "--preview-every",
            help="Steps from one preview to the next. Default: 1 with a tiny decoder, else 10, as the model's own"
            " decoder takes as long as a step or two.",
            metavar="N",
        ),
    ] = None
    decoder: Annotated[
        Path | None,
        typer.Option(
            "--preview-decoder",
            help="Tiny decoder for the previews: a file such as taesd_decoder.safetensors, or diffusers' folder."
            " Default: the one that ships with the embedded model; for any other, the model's own decoder.",
            metavar="SOURCE",
        ),
    ] = None

    def check(self) -> None:
        """Raises UserError for what can be told to be wrong before a model is there."""
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

        tell_of_replacing(self.path)
        tiny = self.decoder is not None or embedded
        decoder = load_tiny_decoder(self.decoder, model) if tiny else None
        return Preview(model, self.path, every=self.every, decoder=decoder)


@dataclass(frozen=True)
class Targets:
    """The files to write."""

    title: ClassVar[str] = "Files to write"

    output: Annotated[
        Path | None,
        typer.Option(
            help="PNG, JPEG or WebP file to write, or a folder (any name without an ending) to write into, which is"
            " made if it is not there. Default: picture.png, or the next picture-2.png, ... that is not there yet.",
            metavar="FILE_OR_FOLDER",
        ),
    ] = None
    grid: Annotated[Path | None, typer.Option(help="Also write all pictures as one sheet.", metavar="FILE")] = None
    filmstrip: Annotated[
        Path | None,
        typer.Option(help="Also write a picture of the steps: noise turning into the prompt.", metavar="FILE"),
    ] = None
    previews: Previews = Previews()

    def check(self, *, pictures: bool) -> None:
        """Raises UserError for what cannot be written; `pictures`: whether `output` is one of them or a folder."""
        from diafano.pictures.files import check_target

        if pictures:
            output = PICTURE if self.output is None else self.output
            if is_folder(output):
                check_folder(output)
            else:
                check_target(output)
        for sheet in (self.grid, self.filmstrip):
            if sheet is not None:
                check_target(sheet)
        self.previews.check()

    def write(
        self, pictures: "Sequence[Image.Image]", prompt: str, seeds: Sequence[str], strip: "Filmstrip | None"
    ) -> None:
        """Write all, and print their names. What cannot be written keeps nothing else from being written."""
        from diafano.pictures.pixels import grid

        failed: list[UserError] = []

        def written(save: Callable[[], Path]) -> None:
            try:
                path = save()
            except UserError as error:
                failed.append(error)
            else:
                print(path)

        for place, picture in enumerate(pictures):
            written(partial(self._save, picture, place, prompt, seeds))
        settings = pictures[0].info.get("parameters")
        if self.grid is not None:
            sheet = self.grid
            written(lambda: replacing(sheet, lambda: _fitting(grid(pictures), sheet, settings)))
        if self.filmstrip is not None and strip is not None:
            film = self.filmstrip
            written(lambda: replacing(film, lambda: _fitting(strip.picture(), film, settings)))
        if self.previews.path is not None and self.previews.path.is_file():  # or why it is not has been said
            print(self.previews.path)
        for error in failed[1:]:
            note(str(error))
        if failed:
            raise failed[0]

    def _save(self, picture: "Image.Image", place: int, prompt: str, seeds: Sequence[str]) -> Path:
        """Write the picture at a place among all; where its name was not said, it takes one that no file has."""
        from diafano.pictures.files import save_new_picture

        output = PICTURE if self.output is None else self.output
        if not is_folder(output) and self.output is not None:
            path = name_files(output, prompt, seeds)[place]
            return replacing(path, lambda: _fitting(picture, path))
        names: Iterator[Path]
        if is_folder(output):
            try:
                output.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(refusal(error)) from error
            names = numbered(name_files(output, prompt, seeds)[place])
        elif len(seeds) == 1:
            names = numbered(output)
        else:
            names = (with_number(output, number) for number in count(1))
        return save_new_picture(picture, names)


def is_folder(output: Path) -> bool:
    """Whether the user means a folder: it is there, or its name has no ending, as those of pictures do."""
    try:
        return output.is_dir() or (output.suffix == "" and not output.is_file())
    except OSError:  # such as a name too long: whoever checks it says so
        return output.suffix == ""


def replacing(path: Path, save: Callable[[], object]) -> Path:
    """Save what goes to `path` by the user's own word, and say so if something else was there.

    Returns where it lies: what `save` returns, if that is a path.
    """
    there = path.exists()
    saved = save()
    if isinstance(saved, Path) and saved != path:
        return saved
    if there:
        note(f"{str(path)!r} was there already and has been replaced")
    return path


def _fitting(picture: "Image.Image", path: Path, settings: str | None = None) -> Path:
    """Save the picture to `path`, or as PNG beside it where the format has no room for it: it was work to draw."""
    from diafano.pictures.files import save_new_picture, save_picture
    from diafano.pictures.metadata import FormatError

    try:
        save_picture(picture, path, settings)
    except FormatError as error:
        saved = save_new_picture(picture, numbered(path.with_suffix(".png")), settings)
        note(f"{str(error).partition(':')[0]}: {str(saved)!r} is written instead of {str(path)!r}")
        return saved
    return path


def tell_of_replacing(path: Path) -> None:
    """The same of what is written more than once."""
    if path.exists():
        note(f"{str(path)!r} is there already and will be replaced")


def name_files(output: Path, prompt: str, seeds: Sequence[str]) -> list[Path]:
    """A name for each seed, if no other file has it.

    A folder gets names made of prompt and seed. A file name is taken as it is for one picture, and numbered for
    several: ``apples-1.png``, ``apples-2.png``.
    """
    if is_folder(output):
        return [output / f"{slug(prompt)}-{seed}.png" for seed in seeds]
    if len(seeds) == 1:
        return [output]
    return [with_number(output, number) for number in range(1, len(seeds) + 1)]
