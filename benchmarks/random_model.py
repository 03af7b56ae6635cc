"""A model of Stable Diffusion 1's or 2's shape with random weights, written as a diffusers folder.

diffusers and transformers make and write it, so that nothing of diafano stands on both sides of a comparison. Fresh
weights would hide mistakes: biases are 0, norms are 1, and the text hardly matters. These are shaken, and the last
layers are scaled so that predictions have the spread of noise and pictures fill the range of pixels.
"""

import argparse
import itertools
import json
import os
import warnings
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import diffusers
import torch
import transformers
from torch import nn

FAMILIES = ("sd1", "sd2")
WORDS = (
    "a",
    "the",
    "red",
    "blue",
    "green",
    "apple",
    "banana",
    "cat",
    "dog",
    "penguin",
    "fox",
    "on",
    "left",
    "of",
    "two",
)
VOCABULARY, START, END = 49408, 49406, 49407
CONTRAST = 0.4
"""Standard deviation of the pixels (-1 to 1) that the decoder makes of a latent of unit variance."""


def write_random_model(
    folder: Path, family: str = "sd1", *, small: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> None:
    """Fill `folder`: 4.3 GB in float32 at full size; `small` keeps the structure in a tenth of the width.

    "sd1" predicts noise, "sd2" v. The text encoders' widths (768 and 1024) are the originals' in either size.
    """
    quiet()
    torch.manual_seed(seed)
    second = family == "sd2"
    width = 1024 if second else 768
    parts = {
        "unet": lambda: diffusers.UNet2DConditionModel(
            sample_size=96 if second else 64,
            block_out_channels=(32, 64, 64, 64) if small else (320, 640, 1280, 1280),
            cross_attention_dim=width,
            # diffusers' name for the number of heads
            attention_head_dim=((1, 2, 2, 2) if small else (5, 10, 20, 20)) if second else 8,
            use_linear_projection=second,
        ),
        "vae": lambda: diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 64, 64) if small else (128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=768 if second else 512,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "text_encoder": lambda: transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=VOCABULARY,
                hidden_size=width,
                intermediate_size=256 if small else 4 * width,
                num_hidden_layers=2 if small else 23 if second else 12,
                num_attention_heads=width // 64,
                max_position_embeddings=77,
                hidden_act="gelu" if second else "quick_gelu",
                projection_dim=width,
                bos_token_id=START,
                eos_token_id=END,
            )
        ),
    }
    for name, make in parts.items():  # one at a time: only one is in memory
        part = shaken(make().eval())
        if name == "unet":
            scale_prediction(part)
        if name == "vae":
            scale_pixels(part)
        part.to(dtype).save_pretrained(folder / name)
        del part
    write_scheduler(folder, "v_prediction" if second else "epsilon")
    write_tokenizer(folder / "tokenizer", pad="!" if second else "<|endoftext|>")
    write_index(folder)


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """The module with biases and norms off their fresh 0 and 1, and with a UNet that listens to its text."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif "attn2.to_" in name:
            parameter.mul_(3.0)
    return module


@torch.no_grad()
def scale_prediction(unet: diffusers.UNet2DConditionModel) -> None:
    """Scale the last layer so that what the UNet predicts has the spread 1 of noise: samplers then differ visibly."""
    text = torch.randn(1, 77, unet.config.cross_attention_dim)
    spread = unet(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), text).sample.std()
    unet.conv_out.weight.mul_(1.0 / spread)
    unet.conv_out.bias.mul_(1.0 / spread)


@torch.no_grad()
def scale_pixels(vae: diffusers.AutoencoderKL) -> None:
    """Scale the decoder's last layer so that pixels spread by `CONTRAST`."""
    spread = vae.decode(torch.randn(1, 4, 32, 32) / vae.config.scaling_factor).sample.std()
    vae.decoder.conv_out.weight.mul_(CONTRAST / spread)
    vae.decoder.conv_out.bias.mul_(CONTRAST / spread)


def write_scheduler(folder: Path, prediction: str) -> None:
    """The scheduler configuration of Stable Diffusion 1 and 2; `prediction` is "epsilon" or "v_prediction"."""
    diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction,
    ).save_pretrained(folder / "scheduler")


def write_tokenizer(folder: Path, *, pad: str) -> None:
    """CLIP's byte-pair tokenizer, true in its ids of bytes and special tokens and in its size, knowing a few words."""
    letters = byte_alphabet()
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair, pieces = (pieces[0], pieces[1]), [pieces[0] + pieces[1], *pieces[2:]]
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
    # All other places are taken by pairs of letters, for a vocabulary and merges as long as the true ones take to read.
    known = set(vocabulary)
    pairs = ((left, right) for left in letters for right in letters if left + right not in known)
    for left, right in itertools.islice(pairs, START - len(vocabulary)):
        merges.append((left, right))
        vocabulary.append(left + right)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": pad,
        "unk_token": "<|endoftext|>",
        "errors": "replace",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def byte_alphabet() -> list[str]:
    """The printable stand-ins for the 256 bytes that CLIP's and GPT-2's encodings use, in the order of their ids."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(256 - len(plain))]


def write_index(folder: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.21.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def quiet() -> None:
    """No progress bars, and nothing of what the libraries say about their own future."""
    warnings.simplefilter("ignore")
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--family", choices=FAMILIES, default="sd1")
    arguments.add_argument("--small", action="store_true")
    arguments.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    dtype = getattr(torch, given.dtype)
    write_random_model(given.folder, given.family, small=given.small, dtype=dtype, seed=given.seed)


if __name__ == "__main__":
    main()
