"""`diafano upscale`: pictures made larger, by a network or a filter."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diafano.cli import options as option
from diafano.cli.progress import Bar, bar
from diafano.cli.targets import is_folder, replacing
from diafano.errors import UserError, note
from diafano.files import check_folder, files_below, numbered, refusal

if TYPE_CHECKING:
    from PIL import Image

    from diafano.pictures.upscaling import Upscaler


def command(
    pictures: Annotated[
        list[Path],
        typer.Argument(help="Picture files, or folders of them.", metavar="PICTURE...", show_default=False),
    ],
    upscaler: Annotated[
        str | None,
        typer.Option(
            help="A network's file (ESRGAN's, Real-ESRGAN's), its name in --upscaler-dir, lanczos or nearest. Default:"
            " the one that ships with diafano, or lanczos.",
            metavar="FILE_OR_NAME",
        ),
    ] = None,
    upscaler_dir: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the networks that --upscaler names; may be repeated.", metavar="FOLDER"),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="How many times larger. Default: as the network does it; 2 by a filter.", metavar="FACTOR"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="PNG, JPEG or WebP file to write, or a folder (any name without an ending), which is made if it is not"
            " there. Default: PICTURE-x4.png and the like beside each picture, under a name that no file has yet.",
            metavar="FILE_OR_FOLDER",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Let a network work in tiles of that many pixels, from 64 on. Default: where the picture is large.",
            metavar="PIXELS",
        ),
    ] = None,
    dtype: option.DType = "auto",
    device: option.Device = "auto",
) -> None:
    """Make pictures larger. Transparency, grey and 16 bits of grey stay, and so do the settings that a picture carries.

    A network does its own scale, again where that is not enough; Lanczos brings the result to the FACTOR.
    """
    with bar() as progress:
        from diafano.checkpoints.upscaler_files import UpscalerFiles
        from diafano.engine.enlarging import check_tile

        check_tile(tile)
        found = list(_pictures(pictures))
        if output is not None:
            _check_output(output, len(found))
        path = Path(upscaler or "")
        files = {path.stem: path} if path.is_file() else {}
        known = UpscalerFiles(upscaler_dir or [], files, own=_shipped(), device=device, dtype=dtype)
        chosen = known(path.stem if files else _default(known) if upscaler is None else upscaler)
        chosen.check_pictures()
        chosen.size_of((1, 1), scale)
        failed: list[UserError] = []
        for picture in found:
            try:
                print(_upscaled(picture, chosen, scale, output, tile, progress))
            except UserError as error:  # one that cannot be read keeps no other from being made larger
                failed.append(error)
    for other in failed[1:]:
        note(str(other))
    if failed:
        raise failed[0]


def _pictures(given: list[Path]) -> Iterator[Path]:
    """The files, and those in the folders, in their order."""
    from diafano.pictures.metadata import FORMATS

    for path in given:
        if not path.is_dir():
            yield path
            continue
        inside = [one for one in files_below(path) if one.suffix.lower() in FORMATS]
        if not inside:
            note(f"there are no pictures in the folder {path}: give one with files ending in {', '.join(FORMATS)}")
        yield from inside


def _check_output(output: Path, count: int) -> None:
    from diafano.pictures.files import check_target

    if is_folder(output):
        check_folder(output)
        return
    if count > 1:
        raise UserError(f"{count} pictures do not go into one file {str(output)!r}: name a folder")
    check_target(output)


def _shipped() -> tuple[str, Path] | None:
    """The upscaler of the embedded model, where this copy has one."""
    from diafano.checkpoints.loading import EMBEDDED
    from diafano.checkpoints.upscaler_files import OWN

    return ("embedded", EMBEDDED / OWN) if (EMBEDDED / OWN).is_file() else None


def _default(known: object) -> str:
    own = getattr(known, "own", None)
    if own is None:
        note("no upscaler was named, and none ships with this copy of diafano: Lanczos enlarges; see --upscaler")
    return "Lanczos" if own is None else str(own[0])


def _upscaled(
    path: Path, upscaler: "Upscaler", scale: float | None, output: Path | None, tile: int | None, progress: Bar
) -> Path:
    """Make one picture larger, write it, and return where."""
    from diafano.pictures.files import read_whole_picture, save_new_picture, save_picture

    picture = read_whole_picture(path)
    name = _name(path, picture, output, upscaler.scale if scale is None else scale)
    progress.begin(f"making {path.name} larger", 1)
    made = upscaler.upscale(picture, scale=scale, tile=tile, on_tile=progress.at)
    if output is not None and not is_folder(output):
        if output.suffix.lower() in (".jpg", ".jpeg") and "A" in made.mode:
            note(f"{output} is a JPEG, which has no transparency: what is transparent in {path.name} lies on white")
        return replacing(output, lambda: save_picture(made, output, keep_kind=True))
    try:
        name.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(refusal(error)) from error
    return save_new_picture(made, numbered(name), keep_kind=True)


def _name(path: Path, picture: "Image.Image", output: Path | None, factor: float) -> Path:
    """What the larger picture is called if no file is: in a folder as before, else ``photo-x4.png`` beside it."""
    from diafano.pictures.metadata import FORMATS

    file_format = FORMATS.get(path.suffix.lower())
    holds = {"PNG": True, "JPEG": picture.mode in ("L", "RGB"), "WEBP": not picture.mode.startswith("I")}
    suffix = path.suffix if file_format is not None and holds[file_format] else ".png"
    return (path.parent / f"{path.stem}-x{factor:g}{suffix}") if output is None else output / f"{path.stem}{suffix}"
