"""The folder that same_pictures.py draws with: models and add-ons of a few MB, with random weights from fixed seeds.

    .venv/bin/python benchmarks/same_checkpoints.py FOLDER

FOLDER is new, or empty. same_pictures.py says what lies in it. Made once, it serves for both sides of a comparison:
inner modules of the package are used here, and so what this writes may change with them, or with torch and diffusers.
"""

import argparse
import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from random_model import write_random_model

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import conftest
import diafano
from diafano.checkpoints.controlnet import names_of
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.parts import write_part
from diafano.checkpoints.single_file import save_file as save_single
from diafano.families import configs
from diafano.families import names as table
from diafano.families.family import WriteContext
from diafano.families.folder_parts import AUTOENCODER
from diafano.networks.autoencoder import Autoencoder
from diafano.networks.controlnet import ControlNet
from diafano.networks.unet import UNet

FIXTURES: Any = conftest
tiny_of, narrow_of = FIXTURES.tiny_model.__wrapped__, FIXTURES.narrow_model.__wrapped__


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shake(module: torch.nn.Module, seed: int) -> None:
    """Biases and norms off their fresh 0 and 1."""
    g = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))


def whole_models(folder: Path) -> None:
    """In folders."""
    write_random_model(folder / "sd1", "sd1", small=True, dtype=torch.float16, seed=1)
    write_random_model(folder / "sd2v", "sd2", small=True, dtype=torch.float16, seed=2)
    shutil.copytree(folder / "sd2v", folder / "zsnr", copy_function=os.link)
    config = folder / "zsnr/scheduler/scheduler_config.json"
    said = json.loads(config.read_text()) | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config.unlink()  # a link to the other model's
    config.write_text(json.dumps({**said, "_class_name": "DDIMScheduler"}, indent=2))
    tiny = copy.deepcopy(tiny_of())
    for seed, part in enumerate((tiny.unet, tiny.text_encoder, tiny.autoencoder)):
        shake(part, seed)
    save_folder(tiny, folder / "tiny")


def single_files(folder: Path) -> None:
    """Of both families, whole ones and such as something is wrong with."""
    make = narrow_of(tiny_of())
    for second in (False, True):
        model = copy.deepcopy(make(second))
        for seed, part in enumerate((model.unet, model.text_encoder, model.autoencoder)):
            shake(part, 10 + seed)
        tokens = folder / ("tokenizer2" if second else "tokenizer")
        model.tokenizer.save(tokens)
        if second:
            path = tokens / "tokenizer_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
        said = folder / ("single2.safetensors" if second else "single.safetensors")
        save_single(model, said)
        weights = load_file(said)
        if second:
            save_file(weights, folder / "guess2.safetensors")  # nothing says what it predicts
            save_file(weights, folder / "single2v.safetensors", {"modelspec.prediction_type": "v"})
            continue
        extra = {
            "alphas_cumprod": model.schedule.alphas_cumprod.float(),
            "model_ema.decay": torch.ones(()),
            "loss.logvar": torch.zeros(1),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
            **{
                table.ema_name(name): 0.9 * tensor.clone()
                for name, tensor in weights.items()
                if name.startswith(table.UNET)
            },
        }
        torch.save({"state_dict": weights | extra, "epoch": 1}, folder / "single.ckpt")
        rest = {name: tensor for name, tensor in weights.items() if not name.startswith(table.AUTOENCODER)}
        save_file(rest, folder / "no_vae.safetensors")
        odd = weights | {"model.diffusion_model.out.9.weight": torch.ones(2), "strange": torch.ones(1)}
        odd.pop("model.diffusion_model.out.0.bias")
        odd["first_stage_model.decoder.norm_out.weight"] = torch.full((32,), float("nan"))
        save_file(odd, folder / "damaged.safetensors")
        torch.manual_seed(3)
        other = Autoencoder(model.autoencoder.config).eval()
        kept = other.state_dict()
        stored = table.to_original(kept, table.autoencoder_table(other.config, kept))
        save_file(
            {name.removeprefix(table.AUTOENCODER): tensor.contiguous() for name, tensor in stored.items()},
            folder / "narrow_vae.safetensors",
        )
        torch.manual_seed(4)
        model.unet = UNet(model.unet.config.model_copy(update={"in_channels": 9})).eval()
        shake(model.unet, 4)
        save_single(model, folder / "inpainting.safetensors")
    content = (folder / "single.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    torch.save({"state_dict": {"model.diffusion_model.x": torch.zeros(1)}, "callbacks": Runs()}, folder / "evil.ckpt")


class Runs:
    """Would run a (harmless) command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def addons(model: diafano.StableDiffusion, folder: Path) -> None:
    """For the embedded model, and some that fit no model here."""
    g = generator(5)

    def pair(weight: Tensor, rank: int = 2, size: float = 0.3) -> tuple[Tensor, Tensor]:
        down = torch.randn(rank, *weight.shape[1:], generator=g) * size
        return down, torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=g) * size

    attention = [name for name, _ in model.unet.named_modules() if name.endswith(("to_q", "to_v", "to_out.0"))]
    convolutions = ["conv_out", "mid_block.resnets.0.conv1"]
    text = [name for name, _ in model.text_encoder.named_modules() if name.endswith(("q_proj", "fc1"))]
    kohya: dict[str, Tensor] = {}
    for prefix, part, names in (
        ("lora_unet_", model.unet, attention + convolutions),
        ("lora_te_text_model_", model.text_encoder, text),
    ):
        for name in names:
            down, up = pair(part.get_parameter(f"{name}.weight"))
            flat = prefix + name.replace(".", "_")
            kohya |= {
                f"{flat}.lora_down.weight": down,
                f"{flat}.lora_up.weight": up,
                f"{flat}.alpha": torch.tensor(1.0),
            }
    (folder / "loras").mkdir()
    save_file(kohya, folder / "loras/style.safetensors", {"ss_training_comment": "same pictures"})
    peft: dict[str, Tensor] = {}
    for name in attention:
        down, up = pair(model.unet.get_parameter(f"{name}.weight"))
        peft |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    save_file(peft, folder / "loras/peft.safetensors")
    save_file({**kohya, "lora_unet_no_such_layer.lora_up.weight": torch.ones(2, 2)}, folder / "loras/odd.safetensors")
    wide = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(2, 768),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.ones(1280, 2),
    }
    save_file(wide, folder / "loras/wide.safetensors")

    width = model.text_encoder.config.width
    (folder / "embeddings").mkdir()
    save_file({"emb_params": torch.randn(2, width, generator=g)}, folder / "embeddings/toy.safetensors")
    torch.save(
        {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": {"*": torch.nn.Parameter(torch.randn(1, width, generator=g))},
            "name": "shade",
            "step": 9,
            "sd_checkpoint": None,
        },
        folder / "embeddings/shade.pt",
    )
    save_file({"emb_params": torch.ones(1, 768)}, folder / "wide_embedding.safetensors")

    other = copy.deepcopy(model.autoencoder)
    with torch.no_grad():
        for parameter in other.decoder.parameters():
            parameter.mul_(1.0 + 0.05 * torch.randn(parameter.shape, generator=g))
    write_part(other, folder / "kl", AUTOENCODER, WriteContext(size=(64, 64)))

    torch.manual_seed(6)
    control = ControlNet.copied_from(model.unet, (16, 32, 48))
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=g))
    control.eval()
    weights = control.state_dict()
    save_file(weights, folder / "control.safetensors")
    torch.manual_seed(7)
    small = ControlNet.copied_from(diafano.load(folder / "tiny", device="cpu").unet, (8, 12, 16, 16))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=g))
    own = small.state_dict()
    stored = {f"control_model.{name}": own[ours] for ours, name in names_of(own, small.config).items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "tiny_control.safetensors")
    settings = configs.unet_json(control.config, 16)
    for key in ("up_block_types", "out_channels", "sample_size", "center_input_sample", "dual_cross_attention"):
        del settings[key]
    settings.pop("dropout")
    settings |= {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [16, 32, 48]}
    (folder / "control").mkdir()
    (folder / "control/config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "control/diffusion_pytorch_model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that is new, or empty")
    folder: Path = parser.parse_args().folder
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        parser.error(f"{folder} is there already: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    whole_models(folder)
    single_files(folder)
    addons(diafano.load(device="cpu", dtype="float32"), folder)


if __name__ == "__main__":
    main()
