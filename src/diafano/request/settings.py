"""Every setting of a request, once: one row a setting, in the groups in which they are shown.

A row is the setting's name, the type and the bounds of what is kept, and `setting(...)`: its help, the name that its
value has there, what may be given, its place in a picture's text and in A1111's API. From the rows are made

- the options of `diafano generate`                      `cli.panels`
- what a `Request` checks, and the words for a mistake   `request.request`
- both ways of a picture's text                          `request.recorded`
- the typed keyword arguments, docs/settings.md          docs/scripts/settings.py, which writes `request.keywords`

so that a new setting is a row here and the place where it acts. Nothing here needs torch, numpy or Pillow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import model_validator

from diafano.errors import UserError
from diafano.pictures.infotext import UPSCALED_BY, UPSCALER
from diafano.pictures.sides import Sides
from diafano.request.fields import (
    Amount,
    Count,
    MaskedContent,
    Outpaint,
    ProgramName,
    SamplerName,
    ScheduleName,
    Seed,
    SeedOrNone,
    Share,
    ShareOrNone,
    Size,
    Steps,
    StepsOrNone,
    Text,
    Tileable,
    UpscalerName,
    UpscalerNameOrNone,
    number,
    sampler_label,
    schedule_label,
    switch,
    whole,
)
from diafano.request.guidance import GuidanceOfSteps, Interval, first_guidance, guidance_schedule, interval_text
from diafano.request.rows import Group, Row, TextKey, rows_of, setting

HIRES_STRENGTH = 0.7
"""A1111's: a latent that was enlarged is blurred, and less would leave it so."""

LARGEST_UPSCALE = 16

GENERATOR = {"CPU": "CPU", "GPU": "GPU", "NV": "GPU"}
"""A1111's names of `noise.sources.GENERATORS`."""


def _edges(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}x{size[1]}"


def _limit(said: str) -> float | None:
    """A1111's 0, and an infinite one, is none."""
    limit = float(said)
    return limit if 0.0 < limit < math.inf else None


class Picture(Group):
    title = "What is drawn"

    prompt: Text = setting("What the picture shows.", "TEXT", default=..., api="prompt", option=False)
    negative: Text = setting("What the picture does not show.", "TEXT", default="", given=str, api="negative_prompt")
    steps: Steps = setting(
        "Steps from noise to picture. Default: the model's own.", "N", default=..., text="Steps", api="steps"
    )
    sampler: SamplerName = setting(
        "One of those that `diafano samplers` lists. Default: the model's own.",
        "S",
        default=...,
        text=TextKey("Sampler", write=sampler_label),
        api="sampler_name",
    )
    schedule: ScheduleName = setting(
        "Spacing of the steps, see `diafano samplers`. Default: the sampler's own.",
        "S",
        default=...,
        text=TextKey("Schedule type", write=schedule_label),
        api="scheduler",
    )
    seed: Seed = setting(
        "Picture i uses seed N + i. Default: drawn by chance and printed.", "N", default=..., text="Seed", api="seed"
    )
    size: Size = setting(
        "Width and height in pixels. Default: the model's own.",
        "WxH",
        given=tuple[int, int] | str,
        default=...,
        text=TextKey("Size", write=_edges),
        api=("width", "height"),
    )
    count: Count = setting("How many pictures. Default: 1.", "N", default=1, api=("batch_size", "n_iter"))


class SamplerOptions(Group):
    """Keyword arguments of those samplers that have them; None is the sampler's own choice."""

    title = "Fresh noise, for samplers that have the choice"

    eta: Annotated[float | None, number(0, 1)] = setting(
        "Share of fresh noise in each step, 0 to 1. Default: the sampler's own.",
        "E",
        text=(TextKey("Eta"), TextKey("Eta DDIM", when=lambda said: False)),
        api="eta",
    )
    s_churn: Amount = setting(
        "Fresh noise before each step, summed over the run. Default: none.", "C", text="Sigma churn", api="s_churn"
    )
    s_tmin: Amount = setting(
        "Sigma below which --s-churn does nothing. Default: 0.", "T", text="Sigma tmin", api="s_tmin"
    )
    s_tmax: Amount = setting(
        "Sigma above which --s-churn does nothing. Default: none.",
        "T",
        text=TextKey("Sigma tmax", read=_limit),
        api="s_tmax",
    )
    s_noise: Amount = setting("Factor on fresh noise, near 1. Default: 1.", "F", text="Sigma noise", api="s_noise")


class GuidanceSettings(Group):
    title = "Guidance"

    guidance: GuidanceOfSteps = setting(
        "How strictly to follow the prompt; 1 takes half the time. 7:3 goes from 7 to 3 on the way. Default: the"
        " model's own.",
        "G[:G]",
        given=float | str | Sequence[float],
        default=...,
        text=(
            TextKey("CFG scale", read=float, write=first_guidance),
            TextKey("Guidance schedule", write=guidance_schedule),
        ),
        api="cfg_scale",
    )
    guidance_interval: Interval = setting(
        "Shares of the steps from which and up to which there is guidance: 0.2,0.8.",
        "A,B",
        given=tuple[float, float] | str,
        text=TextKey("Guidance interval", write=interval_text),
    )
    guidance_rescale: Share = setting(
        "How far to undo what guidance does to the picture's contrast, 0 to 1. Default: 0.",
        "R",
        default=0.0,
        text="Guidance rescale",
    )


class Variation(Group):
    """A second seed, whose start noise the first one's is led to; see `noise.variations`. `seed` itself then stays."""

    title = "Variations"

    variation_seed: SeedOrNone = setting(
        "Second seed, which picture i of variations adds i to. Default: by chance.",
        "N",
        text=TextKey("Variation seed", when=lambda said: said.varies),
        api="subseed",
    )
    variation_strength: ShareOrNone = setting(
        "How far the start noise goes from --seed's (0) to --variation-seed's (1).",
        "S",
        text=TextKey("Variation seed strength", when=lambda said: said.varies),
        api="subseed_strength",
    )

    @model_validator(mode="after")
    def _seed_and_strength_belong_together(self) -> Self:
        if (self.variation_seed is None) != (self.variation_strength is None):
            raise UserError("variation_seed and variation_strength belong together: give both, or none of them")
        return self

    @property
    def varies(self) -> bool:
        return bool(self.variation_strength)


class ImageToImage(Group):
    """How a picture is drawn over; see `sampling.init_image`. A `strength` of None: there is none."""

    title = "Drawing over a picture"
    picture = True

    strength: ShareOrNone = setting(
        "How much of that picture goes, 0 to 1. Default: 0.75.",
        "S",
        text="Denoising strength",
        api="denoising_strength",
    )
    mask_blur: Annotated[float, number(0, 256, "pixels, ")] = setting(
        "Pixels over which the mask's edge fades out. Default: 0, outpainting 4.",
        "PIXELS",
        default=0.0,
        text="Mask blur",
        api="mask_blur",
    )
    masked_content: MaskedContent = setting(
        "What is inside the mask before it is drawn over: original, fill (the colours around it), latent-noise or"
        " latent-nothing. Default: original.",
        "KIND",
        default="original",
        given=str,
        text="Masked content",
        api="inpainting_fill",
    )
    invert_mask: bool = setting(
        "Draw anew what is black in the mask.",
        default=False,
        text=TextKey("Mask mode", lambda said: said == "Inpaint not masked", lambda _: "Inpaint not masked"),
        api="inpainting_mask_invert",
    )
    only_masked: bool = setting(
        "Draw the surroundings of the mask alone at full size, and put them back.",
        default=False,
        text=TextKey("Inpaint area", lambda said: said == "Only masked", lambda _: "Only masked"),
        api="inpaint_full_res",
    )
    mask_padding: Annotated[int, whole(0, 2048, "pixels, a whole number from 0 to 2048")] = setting(
        "Pixels around the mask that --only-masked shows the model. Default: 32.",
        "PIXELS",
        default=32,
        text=TextKey("Masked area padding", when=lambda said: said.only_masked),
        api="inpaint_full_res_padding",
    )
    outpaint: Outpaint = setting(
        "Pixels to add on each side of the picture, such as left=64,top=32 or all=64.",
        "SIDE=PIXELS,...",
        given=str | Mapping[str, int] | Sides,
        text=TextKey("Outpaint", write=str),  # our own name: A1111 has none
    )


class Hires(Group):
    """A second pass at a larger size, over what the first one has drawn; see `sampling.hires`."""

    title = "A second pass at high resolution"
    picture = False

    hires: Annotated[float | None, number(1, 32)] = setting(
        "Draw the picture again so many times larger, over what was drawn first.",
        "FACTOR",
        text="Hires upscale",
        api=("enable_hr", "hr_scale"),
    )
    hires_size: Size | None = setting(
        "Width and height of that, instead of a factor.",
        "WxH",
        given=tuple[int, int] | str,
        text=TextKey("Hires resize", write=_edges),
        api=("enable_hr", "hr_resize_x", "hr_resize_y"),
    )
    hires_steps: StepsOrNone = setting(
        "Its steps. Default: as many as the first.",
        "N",
        text=TextKey("Hires steps", read=lambda said: int(said) or None),
        api="hr_second_pass_steps",
    )
    hires_strength: Share = setting(
        "How much of the first picture goes, 0 to 1. Default: 0.7.",
        "S",
        default=HIRES_STRENGTH,
        text=TextKey("Denoising strength", when=lambda said: said.has_second_pass),
        api="denoising_strength",
    )
    hires_upscaler: UpscalerName = setting(
        "How the first picture is made larger: latent, latent-antialiased, latent-bicubic,"
        " latent-bicubic-antialiased, latent-nearest, latent-nearest-exact, lanczos, nearest, or a network: a file, or"
        " its name in --upscaler-dir. Default: latent.",
        "NAME",
        default="Latent",
        text=TextKey("Hires upscaler", when=lambda said: said.has_second_pass),
        api="hr_upscaler",
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.hires is not None and self.hires_size is not None:
            raise UserError("hires and hires_size both say how large the second pass is: leave one of them out")
        if not self.has_second_pass:
            needless = {"hires_steps", "hires_strength", "hires_upscaler"} & self.model_fields_set
            if needless:
                raise UserError(
                    f"{', '.join(sorted(needless))}: that is for a second pass, so give hires or hires_size too"
                )
        return self

    @property
    def has_second_pass(self) -> bool:
        return self.hires is not None or self.hires_size is not None


class Enlarged(Group):
    """What becomes of a picture when it is finished: A1111's postprocessing. `upscaler` None is the model's own."""

    title = "The finished picture made larger"

    upscale: Annotated[float | None, number(1, LARGEST_UPSCALE)] = setting(
        "Make the finished picture so many times larger. Default: as the model's card says, where no size is given.",
        "FACTOR",
        text=TextKey(UPSCALED_BY, when=lambda said: said.is_enlarged),
    )
    upscaler: UpscalerNameOrNone = setting(
        "By what: a network's file, its name in --upscaler-dir, lanczos or nearest. Default: the model's own network,"
        " or lanczos.",
        "NAME",
        text=TextKey(UPSCALER, when=lambda said: said.is_enlarged),
    )

    @model_validator(mode="after")
    def _something_is_enlarged(self) -> Self:
        if self.upscaler is not None and self.upscale is None:
            raise UserError(f"upscaler {self.upscaler!r}: that is for a picture made larger, so give upscale too")
        return self

    @property
    def is_enlarged(self) -> bool:
        return self.upscale is not None and self.upscale != 1


class Networks(Group):
    title = "How the networks run"

    clip_skip: Annotated[int, whole(1, says="a whole number from 1, the last layer, on")] = setting(
        "Layer of the text encoder to read, from the end; 1 is the last. Default: 1.",
        "N",
        default=1,
        text=TextKey("Clip skip", read=lambda said: int(said) or 1),  # some programs say 0 of the last layer
        api="override_settings.CLIP_stop_at_last_layers",
    )
    deep_cache: Annotated[int, whole(1, says="a whole number from 1, off, on")] = setting(
        "Run the UNet's deep levels in one of so many steps. Default: 1, in every step.",
        "N",
        default=1,
        text="Deep cache",
    )
    tileable: Tileable = setting(
        "Let the picture continue at its opposite edge, for tiles of a pattern: both, x, y or no. Default: no.",
        "AXES",
        given=bool | str,
        text=TextKey(
            "Tiling",
            read=lambda said: {"true": "both", "false": None, "both": "both", "x": "x", "y": "y"}[said.lower()],
            write=lambda axes: True if axes == "both" else axes,
        ),
        api="tiling",
    )
    tiles: Annotated[bool | None, switch()] = setting(
        "Decode the picture in tiles, or never: it is the same, in less memory. Default: where it is large."
    )


class Level(Group):
    """Of no request: it stands for other settings, see `request.fast`."""

    title = Networks.title

    fast: int | None = setting("Faster and less exact, from level 1 to 3: docs/fast.md. Default: 0, exact.", "LEVEL")


class OtherProgram(Group):
    """The habits of another program, see `request.programs`."""

    title = "Drawing like another program"

    like: ProgramName = setting(
        "Program that draws this very picture of the same settings: diffusers, a1111 or comfyui.",
        "PROGRAM",
        text="Like",
    )
    rng: Literal["CPU", "GPU"] | None = setting(
        "The generator of all noise, CPU or GPU, where it is not the program's (A1111's setting of that name).",
        "NAME",
        given=str,
        text=TextKey("RNG", read=lambda said: GENERATOR[said.upper()]),
        api="override_settings.randn_source",
        option=False,
    )
    batch_size: Annotated[int | None, whole(1)] = setting(
        "Pictures of the whole batch, if not only COUNT; it matters where one generator draws for all (ComfyUI).",
        "N",
        text="Batch size",
        option=False,
    )
    batch_position: Annotated[int, whole(0)] = setting(
        "Place, from 0, of the first of the COUNT pictures in that batch; picture i uses seed N + place + i.",
        "N",
        default=0,
        text=TextKey("Batch pos", when=lambda said: said.batch_size is not None),
        option=False,
    )


GROUPS: tuple[type[Group], ...] = (
    *(Picture, GuidanceSettings, SamplerOptions, Variation),
    *(ImageToImage, Hires, Enlarged, Networks, Level, OtherProgram),
)

SETTINGS: dict[str, Row] = {name: row for name, row in rows_of(GROUPS).items() if name != "prompt"}
"""By name, as the panels of the command line have them; the prompt is no setting, but what they are for."""
