"""What `faults.py` runs: every command on tiny inputs, and how to see that a file which one of them wrote is whole."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.single_file import save_file as save_single_file
from diafano.checkpoints.tiny_decoder import save_tiny_decoder
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.tiny_decoder import TinyDecoder, TinyDecoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.request.card import ModelCard
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.tokenizer import train_byte_pair
from diafano.training.data.emoji.objects import EVERYDAY

if TYPE_CHECKING:
    from fault_campaign import Campaign

WIDTH = 64
LOOP = """
[loop]
steps = 6
batch = 4
precision = "fp32"
tensorboard = false
log_every = 2
preview_every = 3
checkpoint_every = 2
"""
DATA = """
[data]
size = 64
examples = 8
"""
FOLDER = """
[data]
size = 64
kind = "folder"
folder = "pictures"
"""
RECIPES = {
    "autoencoder": """
[network]
widths = [8, 8]
layers = 1
groups = 4
middle_attention = false
""",
    "text": f"""
vocabulary = 600
picture_widths = [8, 8]
shared_width = 8
[network]
vocabulary = 600
width = {WIDTH}
mlp_width = 32
layers = 1
heads = 2
start_token = 0
end_token = 1
pad_token = 1
""",
    "unet": f"""
autoencoder = "model/vae"
text = "model"
[network]
widths = [8, 16]
layers = 1
attention = [false, true]
heads = [2, 2]
text_width = {WIDTH}
groups = 4
[schedule]
[card]
name = "tiny"
size = [64, 64]
steps = 2
""",
    "preview": """
model = "model"
[network]
blocks = [1, 1]
latent_channels = 4
width = 8
""",
    "judge": f"""
[network]
objects = {json.dumps(EVERYDAY)}
widths = [8, 8, 8]
layers = 1
groups = 4
""",
}


def prepare(root: Path) -> None:
    """Models and inputs, in `root`/inputs."""
    inputs = root / "inputs"
    (inputs / "pictures").mkdir(parents=True)
    torch.manual_seed(0)
    save_folder(tiny(), inputs / "model")
    save_single_file(tiny(), inputs / "in.safetensors")
    save_tiny_decoder(
        TinyDecoder(TinyDecoderConfig(blocks=(1, 1), latent_channels=4, width=8)), inputs / "tiny.safetensors"
    )
    save_file({"emb_params": torch.zeros(1, WIDTH)}, inputs / "word.safetensors")
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file(
        {f"{layer}.lora_down.weight": torch.zeros(2, 32), f"{layer}.lora_up.weight": torch.zeros(32, 2)},
        inputs / "lora.safetensors",
    )
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(inputs / "in.png")
    (inputs / "prompts.txt").write_text("a fox\ntwo apples\n")
    for number in range(4):
        Image.fromarray(pixels).save(inputs / f"pictures/{number}.png")
        (inputs / f"pictures/{number}.txt").write_text(f"picture {number}")


def tiny() -> StableDiffusion:
    """Random weights, in a form that both layouts can say."""
    words = train_byte_pair(["a fox", "two apples"], 600, minimum_frequency=1)
    text = CLIPTextConfig(
        vocabulary=words.vocabulary_size,
        width=WIDTH,
        mlp_width=64,
        layers=1,
        heads=1,
        activation="quick_gelu",
        start_token=words.start_token,
        end_token=words.end_token,
        pad_token=words.pad_token,
    )
    unet = UNetConfig(widths=(32,), layers=1, attention=(True,), heads=(8,), text_width=WIDTH)
    return StableDiffusion(
        words,
        CLIPTextEncoder(text).eval(),
        UNet(unet).eval(),
        Autoencoder(AutoencoderConfig(widths=(32, 32), layers=1)).eval(),
        NoiseSchedule(ScheduleConfig(final_sigma="first")),
        ModelCard(name="tiny", size=(64, 64), steps=2),
    )


@dataclass(frozen=True)
class Command:
    """A command and what it is about."""

    name: str
    typed: str
    """``{}`` is what it writes to."""
    ending: str | None = None
    """Of the file that it writes; "" is a folder, None nothing at all."""
    reads: str = ""
    """The input that is spoilt."""
    goes_on: tuple[str, ...] = ()
    """Of the faults of that input: with them it is another input, and fine."""
    prompted: bool = True
    """It reads a text, which must be one."""
    makes_parents: bool = False
    shows: bool = False
    """What it writes only shows how far it is: without it the command goes on, and says so."""

    def arguments(self, campaign: "Campaign", output: str) -> list[str | bytes]:
        """What is typed; the inputs are put in place."""
        shutil.copytree(campaign.root / "inputs", campaign.place, dirs_exist_ok=True)
        words = self.typed.split("|")
        if words[0] == "train":
            text = RECIPES[words[1]] + ({"judge": ""}.get(words[1], FOLDER if "folder" in self.name else DATA))
            where = json.dumps(output)
            (campaign.place / "recipe.toml").write_text(f"output = {where}\n{text}{LOOP}", encoding="utf-8")
        return [word.replace("{}", f"{output}{self.ending or ''}") for word in words]

    def appends(self, name: str) -> bool:
        """Whether a run of it that goes on may change that file before it fails."""
        return name.endswith(("log.jsonl", "table.csv", "table.md"))


DRAW = "generate|a fox|--model|model|--steps|2|--seed|1"
WRITING = (
    Command("generate", f"{DRAW}|--output|{{}}", ".png"),
    Command("generate into a folder", f"{DRAW}|--count|2|--output|{{}}", ""),
    Command("generate --grid", f"{DRAW}|--output|beside.png|--grid|{{}}", ".png"),
    Command("generate --filmstrip", f"{DRAW}|--output|beside.png|--filmstrip|{{}}", ".png"),
    Command("generate --preview", f"{DRAW}|--output|beside.png|--preview|{{}}|--preview-every|1", ".png", shows=True),
    Command("generate --vary", f"{DRAW}|--vary|guidance=1,2|--output|{{}}", ""),
    Command("noise", "noise|in.png|--model|model|--steps|2|--output|{}", ".png", prompted=False),
    Command("evaluate", "evaluate|--model|model|--prompts|2|--steps|1|--grid|{}", ".png", prompted=False),
    Command("scenes", "scenes|{}|--count|6|--size|32|--shipped", "", prompted=False),
    Command("convert", "convert|model|{}", "", prompted=False),
    Command("convert to a file", "convert|model|{}", ".safetensors", prompted=False),
    *(
        Command(f"train {stage}", f"train|{stage}|--config|recipe.toml", "", prompted=False, makes_parents=True)
        for stage in RECIPES
    ),
)
NAMED = {command.name: command for command in WRITING}
TO = "--output|{}"
READING = (
    Command("generate --image", f"{DRAW}|--image|in.png|{TO}", ".png", "in.png"),
    Command("generate --mask", f"{DRAW}|--image|pictures/1.png|--mask|in.png|{TO}", ".png", "in.png"),
    Command("generate --from", f"generate|--from|in.png|--model|model|{TO}", ".png", "in.png"),
    Command(
        "generate --prompts", f"generate|--prompts|prompts.txt|--model|model|{TO}", "", "prompts.txt", ("cut in half",)
    ),
    Command("generate --lora", f"{DRAW}|--lora|lora.safetensors|{TO}", ".png", "lora.safetensors"),
    Command(
        "generate --embedding",
        f"{DRAW}|--embedding|word.safetensors|{TO}",
        ".png",
        "word.safetensors",
        ("a folder in the file's place",),
    ),
    Command("generate --vae", f"{DRAW}|--vae|in.safetensors|{TO}", ".png", "in.safetensors"),
    Command(
        "generate --control", f"{DRAW}|--control|in.safetensors|--control-image|in.png|{TO}", ".png", "in.safetensors"
    ),
    Command(
        "generate --preview-decoder",
        f"{DRAW}|--preview|so_far.png|--preview-decoder|tiny.safetensors|{TO}",
        ".png",
        "tiny.safetensors",
    ),
    Command("generate --model", f"generate|a fox|--model|model|{TO}", ".png", "model"),
    Command("noise", f"noise|in.png|--model|model|{TO}", ".png", "in.png"),
    Command("convert a file", "convert|in.safetensors|{}|--tokenizer|model/tokenizer", "", "in.safetensors"),
    Command("inspect a file", "inspect|in.safetensors", None, "in.safetensors"),
    Command("inspect", "inspect|model", None, "model"),
    Command("tokens", "tokens|a fox|--model|model", None, "model"),
    Command("objects", "objects|--model|model", None, "model"),
    Command("scenes --font", "scenes|{}|--count|2|--font|in.png", "", "in.png"),
    Command("train", "train|autoencoder|--config|recipe.toml", "", "recipe.toml"),
    Command("train on a folder", "train|autoencoder|--config|recipe.toml", "", "pictures"),
    Command("train unet of parts", "train|unet|--config|recipe.toml", "", "model"),
)
INPUT_FAULTS = (
    "a folder in the file's place",
    "empty",
    "cut in half",
    "unreadable",
    "a link to nowhere",
    "a name too long",
)
PRINTING = (
    Command("help", "--help"),
    Command("samplers", "samplers"),
    Command("objects", "objects"),
    Command("inspect", "inspect|model"),
    Command("tokens", "tokens|a fox|--model|model"),
)
SAYING = (
    *PRINTING,
    *(NAMED[name] for name in ("generate", "generate --vary", "scenes", "convert", "train autoencoder")),
)
SPELLING = (
    PRINTING[-1],
    *(NAMED[name] for name in ("generate", "generate --vary", "scenes")),
)
KILLED = tuple(
    NAMED[name]
    for name in (
        "generate into a folder",
        "generate --vary",
        "scenes",
        "convert",
        "convert to a file",
        "train text",
        "train unet",
    )
)


# ---- whether a file is whole


def broken(path: Path) -> str | None:
    """Why a file is none that a command leaves; None: it is whole."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                json.loads(line)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif not path.stat().st_size:
            return "it is empty"
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return None
