"""Files of other families, of parts and of add-ons: each is called by its name, and told what to give instead."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

import diafano
from diafano.checkpoints.recognise import recognise
from diafano.checkpoints.single_file import save_file
from diafano.errors import UserError
from diafano.families.strangers import MARKS, stranger
from diafano.families.table import known_families
from diafano.stable_diffusion import StableDiffusion

UNET = "model.diffusion_model."
READS = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
Shapes = dict[str, tuple[int, ...]]


def unet(width: int, reads: int, told: int | None = None, channels: int = 4) -> Shapes:
    first = {f"{UNET}input_blocks.0.0.weight": (width, channels, 3, 3), UNET + READS: (width, reads)}
    return first if told is None else {**first, f"{UNET}label_emb.0.0.weight": (4 * width, told)}


FILES: dict[str, Shapes] = {
    "a Stable Diffusion XL checkpoint": unet(320, 2048, 2816),
    "a refiner of Stable Diffusion XL": unet(384, 1280, 2560),
    "a Stable Diffusion 2.1 unCLIP checkpoint": unet(320, 1024, 2048),
    "an upscaler of Stable Diffusion 2": {**unet(256, 1024), f"{UNET}label_emb.weight": (1000, 1024)},
    "a checkpoint with class labels": unet(320, 768, 100),
    "a Stable Diffusion 3 checkpoint": {f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": (1, 1)},
    "a Stable Diffusion 3.5 Medium checkpoint": {f"{UNET}joint_blocks.0.x_block.attn2.qkv.weight": (1, 1)},
    "a Stable Diffusion 3.5 Large checkpoint": {f"joint_blocks.{block}.x_block.x": (1,) for block in range(38)},
    "a Flux checkpoint (dev)": {"double_blocks.0.img_attn.qkv.weight": (1, 1), "guidance_in.in_layer.weight": (1, 1)},
    "a Flux checkpoint (Fill)": {"double_blocks.0.img_attn.qkv.weight": (1, 1), "img_in.weight": (3072, 384)},
    "a Flux checkpoint": {f"{UNET}double_blocks.0.img_attn.qkv.weight": (1, 1), "img_in.weight": (3072, 64)},
    "a Flux.2 checkpoint": {"double_blocks.0.x": (1,), "double_stream_modulation_img.lin.weight": (1, 1)},
    "a Chroma checkpoint": {"double_blocks.0.x": (1,), "distilled_guidance_layer.in_proj.weight": (1, 1)},
    "a Z-Image checkpoint": {"cap_embedder.1.weight": (3840, 2560), "noise_refiner.0.x": (1,)},
    "a Lumina 2 checkpoint": {"cap_embedder.1.weight": (2304, 2304), "noise_refiner.0.x": (1,)},
    "a Qwen-Image checkpoint": {"txt_norm.weight": (1,), "transformer_blocks.0.img_mod.1.weight": (1, 1)},
    "a Stable Cascade checkpoint (stage C)": {"clip_txt_mapper.weight": (2048, 1280)},
    "a Stable Cascade checkpoint (stage B)": {"effnet_mapper.0.weight": (1, 1)},
    "a LoRA for Stable Diffusion XL": {"lora_unet_input_blocks_4_1_attn2_to_k.lora_down.weight": (8, 2048)},
    "a LoRA for Stable Diffusion 2": {"unet.mid_block.attn2.to_k.lora_A.weight": (8, 1024)},
    "a LoRA for Flux, which": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 8)},
    "a LoRA for Stable Diffusion 3": {"lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight": (8, 8)},
    "a LoRA for Flux, Stable Diffusion 3": {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (8, 8)},
    "a LoRA, which": {"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": ()},
    "an IP-Adapter": {"ip_adapter.1.to_k_ip.weight": (1, 1), "image_proj.proj.weight": (1, 1)},
    "a T2I-Adapter": {"adapter.body.0.resnets.0.block1.weight": (1, 1)},
    "a ControlNet": {"controlnet_cond_embedding.conv_in.weight": (1, 1), "down_blocks.0.x": (1,)},
    "a textual inversion": {"emb_params": (1, 768)},
    "one part of a diffusers folder": {"down_blocks.0.resnets.0.conv1.weight": (1, 1)},
    "a T5 text encoder alone": {"encoder.block.0.layer.0.SelfAttention.q.weight": (1, 1)},
    "a text encoder alone": {"text_model.embeddings.token_embedding.weight": (1, 1)},
    "an autoencoder alone": {"decoder.up.0.block.0.conv1.weight": (1, 1)},
    "a UNet alone": {"input_blocks.0.0.weight": (320, 4, 3, 3)},
    "an upscaler, which": {"conv_first.weight": (64, 3, 3, 3)},
}


def named(what: str) -> str | None:
    return stranger({name: torch.empty(shape, device="meta") for name, shape in FILES[what].items()})


@pytest.mark.parametrize("what", FILES)
def test_it_is_called_by_its_name(what: str) -> None:
    assert str(named(what)).startswith(what)


def test_every_mark_is_tried() -> None:
    untried = {mark.what for mark in MARKS} - {named(what) for what in FILES}
    assert untried == {"a Flux checkpoint (Canny or Depth)"}


def test_a_user_is_told_what_to_give(tmp_path: Path) -> None:
    save_tensors({name: torch.zeros(shape) for name, shape in unet(8, 2048, 16).items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError) as refused:
        recognise(tmp_path / "x.safetensors")
    assert str(refused.value) == (
        f"{tmp_path}/x.safetensors is a Stable Diffusion XL checkpoint: give a whole checkpoint of Stable Diffusion 1"
        " or 2"
    )


def test_what_is_known_is_no_stranger(narrow_model: Callable[[bool], StableDiffusion], tmp_path: Path) -> None:
    for second in (False, True):
        save_file(narrow_model(second), tmp_path / "x.safetensors")
        assert stranger(load_tensors(tmp_path / "x.safetensors")) is None
    assert stranger({"whatever": torch.zeros(1)}) is None
    assert (known_families(), known_families("or")) == ("Stable Diffusion 1 and 2", "Stable Diffusion 1 or 2")


def test_the_second_as_stabilitys_newer_programs_write_it(
    narrow_model: Callable[[bool], StableDiffusion], tmp_path: Path
) -> None:
    """``conditioner.embedders.`` is no proof of Stable Diffusion XL."""
    model = narrow_model(True)
    model.tokenizer.save(tmp_path / "tokenizer")
    config = tmp_path / "tokenizer/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "!"}))
    save_file(model, tmp_path / "usual.safetensors")
    usual = load_tensors(tmp_path / "usual.safetensors")
    renamed = {name.replace("cond_stage_model.", "conditioner.embedders.0."): one for name, one in usual.items()}
    assert renamed.keys() != usual.keys()
    save_tensors(renamed, tmp_path / "newer.safetensors", metadata={"modelspec.prediction_type": "epsilon"})
    assert recognise(tmp_path / "newer.safetensors").family == "sd2"
    loaded = diafano.load(tmp_path / "newer.safetensors", device="cpu", tokenizer=tmp_path / "tokenizer")
    before, after = model.text_encoder.state_dict(), loaded.text_encoder.state_dict()
    assert loaded.family.name == "sd2" and all(torch.equal(before[name], after[name]) for name in before)
