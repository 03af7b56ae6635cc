"""The options of the commands, each defined once: what can be typed for it, and its help.

A module of its own, because they are many: `cli.main` reads like the list of commands.
"""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a model (diffusers' layout), single file, or hub id (owner/name, owner/name@revision)."
        " Default: the model that ships with diafano.",
        metavar="M",
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Picture i uses seed N + i. Default: drawn by chance and printed.", metavar="N")
]
DType = Annotated[
    str, typer.Option(help="Number format of the weights: auto, float32, bfloat16 or float16.", metavar="D")
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.", metavar="D")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the UNet first: a pause of a minute or more, once for each size; faster on a GPU."
    ),
]
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

# of generate

Prompt = Annotated[str | None, typer.Argument(help="What the picture shows.", metavar="[PROMPT]", show_default=False)]
Redrawn = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Draw this picture again, from the settings in its file (diafano's, A1111's); what else is said here"
        " overrides them.",
        metavar="PICTURE",
    ),
]
Negative = Annotated[str | None, typer.Option(help="What the picture does not show.", metavar="TEXT")]
Steps = Annotated[int | None, typer.Option(help="Steps from noise to picture. Default: the model's own.", metavar="N")]
Guidance = Annotated[
    str | None,
    typer.Option(
        help="How strictly to follow the prompt; 1 takes half the time. 7:3 goes from 7 to 3 on the way. Default: the"
        " model's own.",
        metavar="G[:G]",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(help="Shares of the steps from which and up to which there is guidance: 0.2,0.8.", metavar="A,B"),
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(help="How far to undo what guidance does to the picture's contrast, 0 to 1. Default: 0.", metavar="R"),
]
Sampler = Annotated[
    str | None,
    typer.Option(help="One of those that `diafano samplers` lists. Default: the model's own.", metavar="S"),
]
Schedule = Annotated[
    str | None,
    typer.Option(help="Spacing of the steps, see `diafano samplers`. Default: the sampler's own.", metavar="S"),
]
VariationSeed = Annotated[
    int | None,
    typer.Option(help="Second seed, which picture i of variations adds i to. Default: by chance.", metavar="N"),
]
VariationStrength = Annotated[
    float | None,
    typer.Option(help="How far the start noise goes from --seed's (0) to --variation-seed's (1).", metavar="S"),
]
Size = Annotated[str | None, typer.Option(help="Width and height in pixels. Default: the model's own.", metavar="WxH")]
Count = Annotated[int | None, typer.Option(help="How many pictures. Default: 1.", metavar="N")]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        help="A setting and values for it, such as steps=10,20,50: draws one picture for each, into the folder"
        " --output, with a labelled picture and a table of all; what is there already is not drawn again. Up to three,"
        " for all combinations.",
        metavar="NAME=A,B",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help='File of prompts, one a line, to be drawn like that; or JSON lines: {"prompt": "...", "steps": 20}.',
        metavar="FILE",
    ),
]
Image = Annotated[
    Path | None, typer.Option(help="Picture to draw over. Its size is taken, or the nearest.", metavar="PICTURE")
]
Strength = Annotated[
    float | None,
    typer.Option(help="How much of that picture goes, 0 to 1. Default: 0.75.", metavar="S"),
]
Mask = Annotated[
    Path | None,
    typer.Option(help="Picture of its size, white where it is drawn anew, black elsewhere.", metavar="PICTURE"),
]
MaskBlur = Annotated[
    float | None,
    typer.Option(help="Pixels over which the mask's edge fades out. Default: 0, outpainting 4.", metavar="PIXELS"),
]
MaskedContent = Annotated[
    str | None,
    typer.Option(
        help="What is inside the mask before it is drawn over: original, fill (the colours around it), latent-noise or"
        " latent-nothing. Default: original.",
        metavar="KIND",
    ),
]
InvertMask = Annotated[bool | None, typer.Option("--invert-mask", help="Draw anew what is black in the mask.")]
OnlyMasked = Annotated[
    bool | None,
    typer.Option("--only-masked", help="Draw the surroundings of the mask alone at full size, and put them back."),
]
MaskPadding = Annotated[
    int | None,
    typer.Option(help="Pixels around the mask that --only-masked shows the model. Default: 32.", metavar="PIXELS"),
]
Outpaint = Annotated[
    str | None,
    typer.Option(
        help="Pixels to add on each side of the picture, such as left=64,top=32 or all=64.", metavar="SIDE=PIXELS,..."
    ),
]
Hires = Annotated[
    float | None,
    typer.Option(help="Draw the picture again so many times larger, over what was drawn first.", metavar="FACTOR"),
]
HiresSize = Annotated[str | None, typer.Option(help="Width and height of that, instead of a factor.", metavar="WxH")]
HiresSteps = Annotated[int | None, typer.Option(help="Its steps. Default: as many as the first.", metavar="N")]
HiresStrength = Annotated[
    float | None, typer.Option(help="How much of the first picture goes, 0 to 1. Default: 0.7.", metavar="S")
]
HiresUpscaler = Annotated[
    str | None,
    typer.Option(
        help="How the first picture is made larger: latent, latent-antialiased, latent-bicubic,"
        " latent-bicubic-antialiased, latent-nearest, latent-nearest-exact, lanczos or nearest. Default: latent.",
        metavar="NAME",
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(help="LoRA file, and its strength if that is not 1; may be repeated.", metavar="FILE[:S]"),
]
LoraDir = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder of the LoRAs that a prompt names, as in <lora:name:0.8>; may be repeated.", metavar="FOLDER"
    ),
]
Embedding = Annotated[
    list[Path] | None,
    typer.Option(
        help="File of a textual inversion, or folder of them: words that the prompts may then have; may be repeated.",
        metavar="FILE_OR_FOLDER",
    ),
]
Vae = Annotated[
    Path | None,
    typer.Option(
        help="Another autoencoder: diffusers' folder of one, or of a model, or an original file.", metavar="SOURCE"
    ),
]
ControlNet = Annotated[
    list[Path] | None,
    typer.Option("--control", help="ControlNet, diffusers' folder or a file; may be repeated.", metavar="SOURCE"),
]
ControlImage = Annotated[
    list[Path] | None,
    typer.Option(help="Picture that the ControlNet is to follow: edges, a pose, what it knows.", metavar="PICTURE"),
]
ControlStrength = Annotated[
    list[float] | None, typer.Option(help="How strongly the ControlNet acts. Default: 1.", metavar="S")
]
ControlStart = Annotated[
    list[float] | None, typer.Option(help="Share of the steps before it acts. Default: 0.", metavar="SHARE")
]
ControlEnd = Annotated[
    list[float] | None,
    typer.Option(help="Share of the steps after which it acts no more. Default: 1.", metavar="SHARE"),
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Apply an add-on even if the model has no place for some of it.")
]
Like = Annotated[
    str | None,
    typer.Option(
        help="Program that draws this very picture of the same settings: diffusers, a1111 or comfyui.",
        metavar="PROGRAM",
    ),
]
ClipSkip = Annotated[
    int | None,
    typer.Option(help="Layer of the text encoder to read, from the end; 1 is the last. Default: 1.", metavar="N"),
]
Fast = Annotated[
    int | None,
    typer.Option(help="Faster and less exact, from level 1 to 3: docs/fast.md. Default: 0, exact.", metavar="LEVEL"),
]
DeepCache = Annotated[
    int | None,
    typer.Option(help="Run the UNet's deep levels in one of so many steps. Default: 1, in every step.", metavar="N"),
]
Eta = Annotated[
    float | None,
    typer.Option(help="Share of fresh noise in each step, 0 to 1. Default: the sampler's own.", metavar="E"),
]
SChurn = Annotated[
    float | None,
    typer.Option(help="Fresh noise before each step, summed over the run. Default: none.", metavar="C"),
]
SNoise = Annotated[float | None, typer.Option(help="Factor on fresh noise, near 1. Default: 1.", metavar="F")]
Tileable = Annotated[
    str | None,
    typer.Option(
        help="Let the picture continue at its opposite edge, for tiles of a pattern: both, x, y or no. Default: no.",
        metavar="AXES",
    ),
]
Tiles = Annotated[
    bool | None,
    typer.Option(
        "--tiles/--no-tiles",
        help="Decode the picture in tiles, or never: it is the same, in less memory. Default: where it is large.",
    ),
]
PICTURE = Path("picture.png")
"""Where nobody says where."""
Output = Annotated[
    Path, typer.Option(help="PNG, JPEG or WebP file to write, or a folder to write into.", metavar="FILE_OR_FOLDER")
]
Grid = Annotated[Path | None, typer.Option(help="Also write all pictures as one sheet.", metavar="FILE")]
Filmstrip = Annotated[
    Path | None,
    typer.Option(help="Also write a picture of the steps: noise turning into the prompt.", metavar="FILE"),
]
Preview = Annotated[
    Path | None,
    typer.Option(
        help="Picture file that shows, while it is drawn, what the picture looks like so far.", metavar="FILE"
    ),
]
PreviewEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps from one preview to the next. Default: 1 with a tiny decoder, else 10, as the model's own decoder"
        " takes as long as a step or two.",
        metavar="N",
    ),
]
PreviewDecoder = Annotated[
    Path | None,
    typer.Option(
        help="Tiny decoder for the previews: a file such as taesd_decoder.safetensors, or diffusers' folder. Default:"
        " the one that ships with the embedded model; for any other, the model's own decoder.",
        metavar="SOURCE",
    ),
]
