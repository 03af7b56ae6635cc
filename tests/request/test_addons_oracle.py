"""Add-ons held against diffusers' pipelines on random weights in float32."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.parts import write_part
from diafano.families.folder_parts import AUTOENCODER
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import StableDiffusion


def shaken(module: torch.nn.Module, seed: int) -> Any:
    """Fresh modules have zero biases, unit norms and hardly listen to the text: nothing that a test would miss."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise * max(parameter.shape[-1], 10) ** -0.5)
            if "attn2.to_" in name:
                parameter.mul_(3.0)
    return module.eval()


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    parts = copy.deepcopy(vars(tiny_model))
    for seed, name in enumerate(("text_encoder", "unet", "autoencoder")):
        shaken(parts[name], seed)
    return StableDiffusion(**{**parts, "schedule": NoiseSchedule(ScheduleConfig(final_sigma="first"))})


@pytest.fixture(scope="module")
def folder(model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("addons") / "model"
    save_folder(model, path)
    return path


def opened(kind: Any, folder: Path, **parts: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these libraries say about their own future
        pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False, safety_checker=None, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: Any, prompt: str, negative: str, **more: Any) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generator = torch.Generator("cpu").manual_seed(7)
        settings = {"num_inference_steps": 10, "guidance_scale": 5.0, "generator": generator}
        return pipeline(prompt, negative_prompt=negative, **settings, **more).images[0]


def ours(model: StableDiffusion, prompt: str, negative: str, **more: Any) -> Image.Image:
    return model.generate(prompt, negative=negative, seed=7, steps=10, guidance=5.0, sampler="ddim", **more)[0]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Decibels; infinite for equal pictures."""
    error = float(((np.asarray(one).astype(float) - np.asarray(other)) ** 2).mean())
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def test_a_lora_in_the_prompt(model: StableDiffusion, folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for part, name in (
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("unet", "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"),
        ("text_encoder", "encoder.layers.0.self_attn.v_proj"),
    ):
        rows, columns = getattr(model, part).get_submodule(name).weight.shape
        prefix = "text_encoder.text_model." if part == "text_encoder" else "unet."
        tensors[f"{prefix}{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        tensors[f"{prefix}{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    save_file(tensors, tmp_path / "style.safetensors")
    pipeline = opened(diffusers.StableDiffusionPipeline, folder)
    plain = theirs(pipeline, "a red apple", "a fox")
    loaded = diafano.load(folder, device="cpu", dtype="float32", loras=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(tmp_path, weight_name="style.safetensors", adapter_name="style")
        pipeline.set_adapters(["style"], [0.7])
    styled = theirs(pipeline, "a red apple", "a fox")
    assert psnr(styled, plain) < 35.0
    assert psnr(ours(loaded, "a red apple<lora:style:0.7>", "a fox"), styled) >= 50.0
    assert psnr(ours(loaded, "a red apple", "a fox"), plain) >= 50.0  # and it is gone


@pytest.mark.parametrize("vectors", [1, 4])
def test_a_textual_inversion(model: StableDiffusion, folder: Path, tmp_path: Path, vectors: int) -> None:
    word = torch.randn(vectors, 16, generator=torch.Generator().manual_seed(1))
    save_file({"<cat-toy>": word}, tmp_path / "learned.safetensors")
    pipeline = opened(diffusers.StableDiffusionPipeline, folder)
    plain = theirs(pipeline, "a red <cat-toy> on an apple", "a fox")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_textual_inversion(tmp_path / "learned.safetensors")
    loaded = diafano.load(folder, device="cpu", dtype="float32", embeddings=tmp_path / "learned.safetensors")
    for prompt, negative in (("a red <cat-toy> on an apple", "a fox"), ("a red apple", "two <cat-toy>, a fox")):
        expected = theirs(pipeline, prompt, negative)
        assert psnr(expected, plain) < 35.0
        assert psnr(ours(loaded, prompt, negative), expected) >= 50.0


def test_another_autoencoder(model: StableDiffusion, folder: Path, tmp_path: Path) -> None:
    other = shaken(copy.deepcopy(model.autoencoder), 9)
    write_part(other, tmp_path / "vae", AUTOENCODER)
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False)
    expected = theirs(opened(diffusers.StableDiffusionPipeline, folder, vae=vae), "a red apple", "a fox")
    loaded = diafano.load(folder, device="cpu", dtype="float32", vae=tmp_path / "vae")
    assert psnr(ours(loaded, "a red apple", "a fox"), expected) >= 50.0
    assert psnr(ours(model, "a red apple", "a fox"), expected) < 35.0


@pytest.mark.parametrize("kinds", [1, 2])
def test_controlnets(model: StableDiffusion, folder: Path, tmp_path: Path, kinds: int) -> None:
    paths, pictures = [], []
    for index in range(kinds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
            theirs_net = diffusers.ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=(8, 12, 16, 16), load_weights_from_unet=True
            )
        shaken(theirs_net, 20 + index)
        with torch.no_grad():
            theirs_net.controlnet_cond_embedding.conv_in.weight.mul_(8.0)
            for zero in (*theirs_net.controlnet_down_blocks, theirs_net.controlnet_mid_block):
                zero.weight.mul_(3.0)
        theirs_net.save_pretrained(tmp_path / f"{index}")
        paths.append(tmp_path / f"{index}")
        values = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(values))
    networks = [
        diffusers.ControlNetModel.from_pretrained(path, low_cpu_mem_usage=False, device_map=None) for path in paths
    ]
    pipeline = opened(diffusers.StableDiffusionControlNetPipeline, folder, controlnet=networks)
    loaded = [diafano.load_controlnet(path, model) for path in paths]
    plain = ours(model, "a red apple", "a fox")
    for strength, start, end in ((1.0, 0.0, 1.0), (0.6, 0.2, 0.7)):
        expected = theirs(
            pipeline,
            "a red apple",
            "a fox",
            image=pictures,
            controlnet_conditioning_scale=[strength] * kinds,
            control_guidance_start=[start] * kinds,
            control_guidance_end=[end] * kinds,
        )
        controls = [
            diafano.Control(network, picture, strength, start, end)
            for network, picture in zip(loaded, pictures, strict=True)
        ]
        drawn = ours(model, "a red apple", "a fox", controls=controls)
        assert psnr(expected, plain) < 35.0
        assert psnr(drawn, expected) >= 50.0
