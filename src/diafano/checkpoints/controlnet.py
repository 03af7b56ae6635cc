"""ControlNets from files, for a model that is loaded.

    folder          diffusers' ControlNetModel: config.json and weights
    file            the original's names (``control_model.input_blocks.…``, also without that prefix), or diffusers'

A file does not say how many heads its attention has and so on: it is read as one for the model's own UNet.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from diafano.checkpoints.addon_files import hash_of_piece
from diafano.checkpoints.beside import POOLED_IN_NAME, find_beside
from diafano.checkpoints.differences import compare
from diafano.checkpoints.opening import is_file, is_folder
from diafano.checkpoints.reading import assign_weights, listed, read_file, read_json, read_weights, weight_files
from diafano.engine.devices import on_meta
from diafano.errors import UserError, note
from diafano.families import names as table
from diafano.families.configs import read_controlnet_config
from diafano.families.folder_parts import DIFFUSERS_STEM
from diafano.families.strangers import is_instead
from diafano.networks.controlnet import ControlNet, check_control
from diafano.networks.unet import UNetConfig
from diafano.stable_diffusion import StableDiffusion

ORIGINAL = "control_model."
DIFFERENCE = "difference"
"""A marker: the weights that a ControlNet shares with its UNet are stored without the UNet's own."""
OTHERS = {
    "lora_controlnet": "a control-LoRA",
    "task_embedding": "a ControlNet union, which is told what kind of picture it follows",
    "controlnet_mode_embedder.weight": "a ControlNet union of Flux",
    "add_embedding.linear_1.weight": "a ControlNet for Stable Diffusion XL",
    "label_emb.0.0.weight": "a ControlNet for Stable Diffusion XL",
}
"""Tensors of kinds that are known and cannot be used -> the kind."""
FIRST_HINT, HINT = "input_hint_block.0.weight", "controlnet_cond_embedding."


def load_controlnet(
    source: str | os.PathLike[str], model: StableDiffusion, *, allow_partial: bool = False
) -> ControlNet:
    """The ControlNet in a folder or file, in the number format and on the device of `model`.

    Raises UserError for what is none, is incomplete, or was made for another kind of model. Tensors that have no place
    in it are an error, with `allow_partial` a note.
    """
    path = Path(source)
    differs = False
    if is_folder(path):
        config, hint_widths = read_controlnet_config(read_json(path / "config.json"), f"{path}/config.json")
        weights = read_weights(path, DIFFUSERS_STEM)
        file = next(path / name for name in weight_files(DIFFUSERS_STEM) if (path / name).is_file())
    elif is_file(path):
        config = model.unet.config.model_copy(update={"in_channels": model.unet.config.out_channels})
        tensors = read_file(path)
        _check_kind(tensors, path, allow_partial=allow_partial)
        differs = tensors.pop(DIFFERENCE, None) is not None
        hint_widths = _hint_widths(tensors, path)
        weights, file = _named(tensors, config), path
    else:
        raise UserError(f"there is no ControlNet {str(source)!r}: give diffusers' folder of one, or its file")
    with on_meta():
        network = ControlNet(config, hint_widths, name=path.stem if path.is_file() else path.resolve().name)
    network.hash = hash_of_piece(file)
    check_control(network, model.unet)
    if network.factor != model.autoencoder.factor:
        raise UserError(
            f"{path} is for latents of a {network.factor}th of the picture and {model.card.name} has those of a"
            f" {model.autoencoder.factor}th: it was made for another kind of model"
        )
    _check(network, weights, path, allow_partial=allow_partial)
    kept = {name: weights[name] for name in network.state_dict()}
    if differs:
        for name, own in model.unet.state_dict().items():
            if name in kept and kept[name].shape == own.shape:  # another first layer has nothing to add to
                kept[name] = kept[name].float() + own.float().cpu()
    assign_weights(network, kept, device=model.device, dtype=model.dtype, where=path)
    if model.dtype != torch.float32:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as `load_folder` does
    return network


def _check_kind(tensors: Mapping[str, Tensor], path: Path, *, allow_partial: bool) -> None:
    """Refuses what a folder's configuration would say and a file says by a tensor, a YAML beside it, or its name."""
    names = {name.removeprefix(ORIGINAL) for name in tensors}
    what = next((what for mark, what in OTHERS.items() if mark in names), None)
    if what is not None:
        raise UserError(f"{path} is {what}, which cannot be used yet: take a ControlNet for the model's own kind")
    beside = find_beside(path)
    if beside.flag("global_average_pooling", "global_pool_conditions"):
        raise UserError(
            f"{beside.yaml} has global_average_pooling, which this program cannot do: use another ControlNet"
        )
    if beside.yaml is None and POOLED_IN_NAME.search(path.stem):
        said = f"{path} is one for shuffled pictures by its name, whose maps are averaged, which this program cannot do"
        if not allow_partial:
            raise UserError(f"{said}: use another ControlNet, or say --allow-partial if it is none")
        note(said)


def _hint_widths(tensors: Mapping[str, Tensor], path: Path) -> tuple[int, ...]:
    """Read off the hint encoder's kernels: every other one widens."""
    if f"{HINT}conv_in.weight" in tensors:
        first, step = f"{HINT}conv_in.weight", f"{HINT}blocks.{{}}.weight"
        count = sum(name.startswith(f"{HINT}blocks.") and name.endswith(".weight") for name in tensors)
        kernels = [first, *(step.format(index) for index in range(1, count, 2))]
    else:
        prefix = ORIGINAL if f"{ORIGINAL}{FIRST_HINT}" in tensors else ""
        if f"{prefix}{FIRST_HINT}" not in tensors:
            raise UserError(f"{path} {is_instead(tensors, 'ControlNet')}, and no {FIRST_HINT}")
        last = max(_number(name) for name in tensors if name.startswith(f"{prefix}input_hint_block."))
        kernels = [f"{prefix}input_hint_block.{index}.weight" for index in (0, *range(4, last, 4))]
    missing = [name for name in kernels if name not in tensors]
    if missing:
        raise UserError(f"{path} lacks {listed(missing)}: the ControlNet is incomplete, fetch it again")
    return tuple(len(tensors[name]) for name in kernels)


def _named(tensors: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The tensors under our names, those without a place under their own; other parts of a checkpoint are left out."""
    if f"{HINT}conv_in.weight" in tensors:
        return dict(tensors)
    inside = {name.removeprefix(ORIGINAL): tensor for name, tensor in tensors.items() if name.startswith(ORIGINAL)}
    theirs = inside or dict(tensors)
    with on_meta():
        ours = {original: name for name, original in names_of(ControlNet(config).state_dict(), config).items()}
    prefix = ORIGINAL if inside else ""
    return {ours.get(name, prefix + name): tensor for name, tensor in theirs.items()}


def names_of(names: Iterable[str], config: UNetConfig) -> dict[str, str]:
    """Our names -> the original's, without its prefix."""
    names = list(names)
    blocks = sum(name.startswith(f"{HINT}blocks.") and name.endswith(".weight") for name in names)
    found: dict[str, str] = {}
    shared: list[str] = []
    for name in names:
        module, _, parameter = name.rpartition(".")
        part, _, index = module.rpartition(".")
        if module == f"{HINT}conv_in":
            found[name] = f"input_hint_block.0.{parameter}"
        elif part == f"{HINT}blocks":
            found[name] = f"input_hint_block.{2 * int(index) + 2}.{parameter}"
        elif module == f"{HINT}conv_out":
            found[name] = f"input_hint_block.{2 * blocks + 2}.{parameter}"
        elif part == "controlnet_down_blocks":
            found[name] = f"zero_convs.{index}.0.{parameter}"
        elif module == "controlnet_mid_block":
            found[name] = f"middle_block_out.0.{parameter}"
        else:
            shared.append(name)
    unet = table.unet_table(config, shared)
    return found | {name: stored.name.removeprefix(table.UNET) for name, stored in unet.items()}


def _check(network: ControlNet, weights: Mapping[str, Tensor], path: Path, *, allow_partial: bool) -> None:
    differences = compare(network.state_dict(), weights)
    if differences.missing:
        raise UserError(
            f"{path} lacks {listed(differences.missing)}: the ControlNet is incomplete, or for another kind of model"
        )
    if differences.misshapen:
        raise UserError(
            f"{path} has tensors of another shape, {listed(differences.misshapen)}: it is for another kind of model"
        )
    if left := differences.unexpected:
        if not allow_partial:
            raise UserError(f"{path} has {listed(left)}, for which a ControlNet has no place: say --allow-partial")
        note(f"{path} has {listed(left)}, for which a ControlNet has no place")


def _number(name: str) -> int:
    return int(name.partition("input_hint_block.")[2].partition(".")[0])
