"""What a file of weights is that is no checkpoint of a family here: an ordered table of marks, the surest first.

Names of tensors locate a mark and shapes decide: ``conditioner.embedders.`` say is written for Stable Diffusion XL
and, by Stability's newer programs, for 2. Marks are those of the published files, as ComfyUI and diffusers read them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

NETWORK: Final = "model.diffusion_model."
LORA_ENDINGS: Final = (
    ".lora_up.weight",
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora.up.weight",
    ".hada_w1_a",
    ".lokr_w1",
    ".lokr_w1_a",
    ".oft_blocks",
    ".dora_scale",
)
LORA_FLUX: Final = (
    *("lora_unet_double_blocks_", "lora_unet_single_blocks_", "lora_transformer_single_transformer_blocks_"),
    *("transformer.single_transformer_blocks.", "transformer.double_blocks.", "transformer.single_blocks."),
    *("double_blocks.", "single_blocks.", "diffusion_model.double_blocks.", "diffusion_model.single_blocks."),
)
LORA_SD3: Final = ("lora_unet_joint_blocks_", "joint_blocks.", "diffusion_model.joint_blocks.")
LORA_TRANSFORMER: Final = ("transformer.", "lora_transformer_", "base_model.model.transformer_blocks.")
LORA_XL: Final = ("lora_te2_", "text_encoder_2.", "lora_unet_label_emb_")
REFINER: Final = (384, 1280, 2560)
"""Of its UNet: first width, the text's width, and that of what it is told beside the text."""
XL_TEXT: Final = 2048
UNCLIP: Final = (1536, 2048)


class Tensors:
    """A file's tensors as marks ask for them; a network's names with or without the prefix of a whole checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._names = list(tensors)
        self._shapes = {name.removeprefix(NETWORK): tuple(tensor.shape) for name, tensor in tensors.items()}

    def begin(self, *prefixes: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(prefixes) for name in self._shapes)

    def begin_at_once(self, *prefixes: str) -> bool:
        """The same of whole names, the prefix of a checkpoint's network included."""
        return any(name.startswith(prefixes) for name in self._names)

    def end(self, *suffixes: str) -> bool:
        """Whether a name ends so."""
        return any(name.endswith(suffixes) for name in self._names)

    def count(self, prefix: str) -> int:
        """How many numbers follow that beginning, counted from 0."""
        numbers = {name.removeprefix(prefix).partition(".")[0] for name in self._shapes if name.startswith(prefix)}
        return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)

    def size(self, suffix: str, dimension: int) -> int | None:
        """Of the first tensor whose name ends so; None where there is none of so many dimensions."""
        found = (shape for name, shape in self._shapes.items() if name.endswith(suffix) and len(shape) > dimension)
        return next((shape[dimension] for shape in found), None)

    @property
    def told(self) -> int | None:
        """Width of what a UNet is told beside the text."""
        return self.size("label_emb.0.0.weight", 1)

    @property
    def reads(self) -> int | None:
        """Width of the text that a UNet reads."""
        return self.size("attn2.to_k.weight", 1)


@dataclass(frozen=True)
class Mark:
    """What a file is of which something is true."""

    what: str
    fits: Callable[[Tensors], bool]


def _begin(*prefixes: str) -> Callable[[Tensors], bool]:
    return lambda tensors: tensors.begin(*prefixes)


def _all_begin(*prefixes: str) -> Callable[[Tensors], bool]:
    return lambda tensors: all(tensors.begin(prefix) for prefix in prefixes)


def _is_lora(tensors: Tensors) -> bool:
    return tensors.begin_at_once("lora_unet_", "lora_te", "lora_transformer_", "lycoris_") or tensors.end(*LORA_ENDINGS)


def _lora_reads(width: int) -> Callable[[Tensors], bool]:
    """A LoRA of cross-attention to text of that width."""
    endings = ("attn2_to_k.lora_down.weight", "attn2.to_k.lora_A.weight", "attn2.processor.to_k_lora.down.weight")
    return lambda tensors: _is_lora(tensors) and any(tensors.size(ending, 1) == width for ending in endings)


def _lora_begins(*prefixes: str) -> Callable[[Tensors], bool]:
    return lambda tensors: _is_lora(tensors) and tensors.begin_at_once(*prefixes)


def _is_refiner(tensors: Tensors) -> bool:
    return (tensors.size("input_blocks.0.0.weight", 0), tensors.reads, tensors.told) == REFINER


def _is_xl(tensors: Tensors) -> bool:
    if tensors.begin("label_emb.0.0.", "label_emb.0.2."):
        return tensors.reads == XL_TEXT
    return tensors.begin("conditioner.embedders.") and not tensors.begin("input_blocks.")


LORA: Final = "a LoRA, which changes a model and is none"
MARKS: Final = (
    Mark("a LoRA for Stable Diffusion XL, which changes a model and is none", _lora_reads(XL_TEXT)),
    Mark("a LoRA for Stable Diffusion 2, which changes a model and is none", _lora_reads(1024)),
    Mark("a LoRA for Flux, which changes a model and is none", _lora_begins(*LORA_FLUX)),
    Mark("a LoRA for Stable Diffusion 3, which changes a model and is none", _lora_begins(*LORA_SD3)),
    Mark(
        "a LoRA for Flux, Stable Diffusion 3 or their kin, which changes a model and is none",
        _lora_begins(*LORA_TRANSFORMER),
    ),
    Mark("a LoRA for Stable Diffusion XL, which changes a model and is none", _lora_begins(*LORA_XL)),
    Mark(LORA, _is_lora),
    Mark("a textual inversion, which adds a word to a model and is none", _begin("string_to_param", "emb_params")),
    Mark("an IP-Adapter, which adds to a model and is none", _begin("ip_adapter.", "image_proj.")),
    Mark("a T2I-Adapter, which adds to a model and is none", _begin("adapter.body.")),
    Mark("a ControlNet", _begin("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.")),
    # networks of other families, by blocks that they alone have
    Mark("a Stable Diffusion 3.5 Medium checkpoint", _begin("joint_blocks.0.x_block.attn2.")),
    Mark("a Stable Diffusion 3.5 Large checkpoint", lambda tensors: tensors.count("joint_blocks.") == 38),
    Mark("a Stable Diffusion 3 checkpoint", _begin("joint_blocks.")),
    Mark("a Chroma checkpoint", _begin("distilled_guidance_layer.")),
    Mark("a Flux.2 checkpoint", _begin("double_stream_modulation_img.")),
    Mark("a Flux checkpoint (Fill)", lambda tensors: tensors.size("img_in.weight", 1) == 384),
    Mark("a Flux checkpoint (Canny or Depth)", lambda tensors: tensors.size("img_in.weight", 1) == 128),
    Mark("a Flux checkpoint (dev)", _all_begin("double_blocks.", "guidance_in.")),
    Mark("a Flux checkpoint", _begin("double_blocks.")),
    Mark("a Z-Image checkpoint", lambda tensors: tensors.size("cap_embedder.1.weight", 0) == 3840),
    Mark("a Lumina 2 checkpoint", _all_begin("cap_embedder.1.", "noise_refiner.")),
    Mark("a Qwen-Image checkpoint", _all_begin("txt_norm.", "transformer_blocks.")),
    Mark("a Stable Cascade checkpoint (stage C)", _begin("clip_txt_mapper.")),
    Mark("a Stable Cascade checkpoint (stage B)", _begin("effnet_mapper.")),
    # UNets that are told more than a text
    Mark("a refiner of Stable Diffusion XL", _is_refiner),
    Mark("a Stable Diffusion XL checkpoint", _is_xl),
    Mark(
        "a Stable Diffusion 2.1 unCLIP checkpoint, which draws variations of a picture",
        lambda tensors: tensors.reads == 1024 and tensors.told in UNCLIP,
    ),
    Mark("an upscaler of Stable Diffusion 2", _begin("label_emb.weight")),
    Mark("a checkpoint with class labels (Stable Diffusion XL, or an upscaler)", _begin("label_emb.")),
    # parts alone
    Mark("one part of a diffusers folder", lambda tensors: tensors.begin_at_once("down_blocks.")),
    Mark("a T5 text encoder alone", lambda tensors: tensors.begin_at_once("encoder.block.0.layer.")),
    Mark("an autoencoder alone", lambda tensors: tensors.begin_at_once("encoder.down", "decoder.up")),
    Mark("a text encoder alone", lambda tensors: tensors.begin_at_once("text_model.", "transformer.resblocks.")),
    Mark("a UNet alone", lambda tensors: tensors.begin_at_once("input_blocks.")),
    Mark("an upscaler, which enlarges pictures", lambda tensors: tensors.begin_at_once("conv_first.", "model.1.sub.")),
)


def stranger(tensors: Mapping[str, Tensor]) -> str | None:
    """What has these tensors, "a Flux checkpoint" say; None where no mark is found."""
    asked = Tensors(tensors)
    return next((mark.what for mark in MARKS if mark.fits(asked)), None)


def is_instead(tensors: Mapping[str, Tensor], wanted: str) -> str:
    """What a file with these tensors is or has instead of the wanted: "is a LoRA, and no ControlNet"."""
    what = stranger(tensors)
    if what is not None:
        return f"is {what.partition(',')[0]}, and no {wanted}"
    names = sorted(tensors)
    return f"holds no {wanted}: it has {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
