"""The names of tensors in upscalers' files -> ours, which are Real-ESRGAN's; and what a file is that is none of these.

    ours, Real-ESRGAN's     conv_first  body.0.rdb1.conv1           conv_body       conv_up1  conv_hr  conv_last
    BSRGAN's                conv_first  RRDB_trunk.0.RDB1.conv1     trunk_conv      upconv1   HRconv   conv_last
    old, ESRGAN's           model.0     model.1.sub.0.RDB1.conv1.0  model.1.sub.23  model.3   model.8  model.10

Old files count their layers: between the trunk and the last two convolutions lie as many as there are doublings.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from torch import Tensor

WRAPPERS: Final = ("params_ema", "params", "state_dict")
"""Under which trainers put the tensors, the best first: averages before the weights themselves."""
PREFIXES: Final = ("module.", "params_ema.", "params.", "generator.")
"""Before every name in some files."""

OLD_TRUNK: Final = re.compile(r"model\.1\.sub\.(\d+)\.(?:RDB(\d)\.(conv\w+?)(?:\.0)?\.)?(weight|bias)")
OLD_LAYER: Final = re.compile(r"model\.(\d+)\.(weight|bias)")
BSRGAN: Final = (
    (re.compile(r"RRDB_trunk\.(\d+)\.RDB(\d)\."), r"body.\1.rdb\2."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)

MARKS: Final = (
    ("HAT", ("layers.0.residual_group.overlap_attn.qkv.weight",)),
    ("ATD", ("layers.0.residual_group.td",)),
    ("Swin2SR", ("layers.0.residual_group.blocks.0.attn.logit_scale",)),
    ("SwinIR", ("layers.0.residual_group.blocks.0.attn.relative_position_bias_table",)),
    ("DAT", ("layers.0.blocks.0.ffn.sg.norm.weight",)),
    ("RGT", ("layers.0.blocks.0.gamma",)),
    ("GRL", ("norm_start.weight", "norm_end.weight")),
    ("DRCT", ("layers.0.swin1.norm1.weight",)),
    ("CRAFT", ("layers.0.residual_group.hf_blocks.0.attn.temperature",)),
    ("OmniSR", ("residual_layer.0.residual_layer.0.layer.0.fn.0.weight",)),
    ("SPAN", ("block_1.c1_r.sk.weight",)),
    ("PLKSR", ("feats.1.refine.weight",)),
    ("SAFMN", ("feats.0.safm.aggr.weight",)),
    ("RealCUGAN", ("unet1.conv1.conv.0.weight",)),
    ("DITN", ("UFONE.0.ITLs.0.attn.temperature",)),
    ("SCUNet", ("m_head.0.weight", "m_tail.0.weight")),
    ("DRUNet", ("m_head.weight", "m_tail.weight")),
    ("SwiftSRGAN", ("initial.cnn.depthwise.weight",)),
    ("MoSR", ("gblocks.0.weight", "gblocks.1.fc1.weight")),
    ("AuraSR", ("mid_attn.layers.0.0.to_out.weight",)),
    ("an upscaler of latents", ("upscale_net.0.weight",)),
)
"""Other networks that make pictures larger, or clear, and tensors that they alone have; the surest first."""


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what stands before every name."""
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def other_network(names: Iterable[str]) -> str | None:
    """What has tensors of these names, if it is an upscaler that is not known here."""
    there = set(names)
    return next((what for what, marks in MARKS if there.issuperset(marks)), None)


def rrdb_names(names: Iterable[str]) -> dict[str, str]:
    """A file's names of an RRDBNet's tensors -> ours; what is none of them keeps its name."""
    names = list(names)
    if "model.0.weight" in names:
        return _of_old(names)
    found: dict[str, str] = {}
    for name in names:
        ours = name
        for pattern, replacement in BSRGAN:
            ours = pattern.sub(replacement, ours)
        found[name] = ours
    return found


def _of_old(names: list[str]) -> dict[str, str]:
    """Layers are numbered with what lies between them: doubling, convolution and ReLU make three."""
    numbers = sorted({int(match[1]) for name in names if (match := OLD_LAYER.fullmatch(name))})
    layers = {0: "conv_first"} | {number: f"conv_up{number // 3}" for number in numbers[1:-2]}
    layers |= dict(zip(numbers[-2:], ("conv_hr", "conv_last"), strict=False))
    found: dict[str, str] = {}
    for name in names:
        if match := OLD_TRUNK.fullmatch(name):
            block, dense, conv, kind = match.groups()
            found[name] = f"conv_body.{kind}" if dense is None else f"body.{block}.rdb{dense}.{conv}.{kind}"
        elif match := OLD_LAYER.fullmatch(name):
            found[name] = f"{layers[int(match[1])]}.{match[2]}"
        else:
            found[name] = name
    return found
