"""What `diafano generate` writes, and that it can be written: said before the work, not after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from diafano.errors import UserError
from diafano.files import slug, unused

if TYPE_CHECKING:
    from PIL import Image

    from diafano.explain.filmstrip import Filmstrip
    from diafano.explain.preview import Preview
    from diafano.stable_diffusion import StableDiffusion

PICTURE = Path("picture.png")
"""Where nobody says where."""


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

        tiny = self.decoder is not None or embedded
        decoder = load_tiny_decoder(self.decoder, model) if tiny else None
        return Preview(model, self.path, every=self.every, decoder=decoder)


@dataclass(frozen=True)
class Targets:
    """The files to write."""

    title: ClassVar[str] = "Files to write"

    output: Annotated[
        Path, typer.Option(help="PNG, JPEG or WebP file to write, or a folder to write into.", metavar="FILE_OR_FOLDER")
    ] = PICTURE
    grid: Annotated[Path | None, typer.Option(help="Also write all pictures as one sheet.", metavar="FILE")] = None
    filmstrip: Annotated[
        Path | None,
        typer.Option(help="Also write a picture of the steps: noise turning into the prompt.", metavar="FILE"),
    ] = None
    previews: Previews = Previews()

    def check(self, *, pictures: bool) -> None:
        """Raises UserError for what cannot be written; `pictures`: whether `output` is one of them or a folder."""
        from diafano.pictures.files import check_target

        if pictures and not self.output.is_dir():
            check_target(self.output)
        for sheet in (self.grid, self.filmstrip):
            if sheet is not None:
                check_target(sheet)
        self.previews.check()

    def write(
        self, pictures: "Sequence[Image.Image]", prompt: str, seeds: Sequence[str], strip: "Filmstrip | None"
    ) -> None:
        """Write all, and print their names."""
        from diafano.pictures.files import save_picture
        from diafano.pictures.pixels import grid

        for path, picture in zip(name_files(self.output, prompt, seeds), pictures, strict=True):
            save_picture(picture, path)
            print(path)
        settings = pictures[0].info.get("parameters")
        if self.grid is not None:
            save_picture(grid(pictures), self.grid, settings)
            print(self.grid)
        if self.filmstrip is not None and strip is not None:
            save_picture(strip.picture(), self.filmstrip, settings)
            print(self.filmstrip)
        if self.previews.path is not None:
            print(self.previews.path)


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
