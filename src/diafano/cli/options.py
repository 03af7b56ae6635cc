"""Options that several commands have, each defined once: what can be typed for it, and its help."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a model (diffusers' layout), single file, or hub id (owner/name, owner/name@revision)."
        " Default: the model that ships with diafano.",
        metavar="M",
    ),
]
DType = Annotated[
    str, typer.Option(help="Number format of the weights: auto, float32, bfloat16 or float16.", metavar="D")
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.", metavar="D")]
TokenizerFolder = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Folder or hub id of the tokenizer of a single file, which has none. Default: its family's, of the hub.",
        metavar="FOLDER",
    ),
]
Prediction = Annotated[
    str | None,
    typer.Option(help="What a single file's UNet predicts, noise or v. Default: found out.", metavar="P"),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a hub id. Default: its main branch.", metavar="R")
]
Ema = Annotated[bool, typer.Option("--ema", help="Of a single file, take the running averages of the weights.")]


@dataclass(frozen=True)
class Loading:
    """Which model, and how it is loaded."""

    title: ClassVar[str] = "The model"

    model: Model = None
    dtype: DType = "auto"
    device: Device = "auto"
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the UNet first: a pause of a minute or more, once for each size; faster on a GPU.",
        ),
    ] = False
    tokenizer: TokenizerFolder = None
    prediction: Prediction = None
    ema: Ema = False
    revision: Revision = None

    def arguments(self) -> dict[str, Any]:
        """For `diafano.load`, besides the model."""
        return {name: value for name, value in vars(self).items() if name != "model"}
