"""The same pictures bit for bit, the same files, the same messages: what a user gets, before a change and after it.

    .venv/bin/python benchmarks/same_pictures.py --checkpoints FOLDER --write before.json
    .venv/bin/python benchmarks/same_pictures.py --checkpoints FOLDER --against before.json [--only WORD]

Only the public face is used: the command line, `diafano.load`, `generate` and a model's parts. A case is a drawing from
Python, the parts of a model, or commands in an empty folder; its facts are hashes of pixels, latents, tensors, texts in
pictures, files, what was printed, exit codes. Folders, version and seconds are marks. `--against` prints what differs
and exits with 1; `--only` takes the cases with that word. On another processor or torch, "machine" differs, and pixels.

FOLDER is written by `same_checkpoints.py FOLDER`, once for all. It has models with random weights, and add-ons: folders
sd1, sd2v (predicts v), zsnr, tiny; files single, single2, single2v, guess2, inpainting, no_vae, narrow_vae, damaged,
cut, empty (.safetensors), single.ckpt and evil.ckpt with tokenizer and tokenizer2 (of 2.x); for the embedded model
loras, embeddings, kl, control, and misfits.
"""

import argparse
import difflib
import hashlib
import itertools
import json
import logging
import os
import re
import runpy
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from string import Template
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
os.environ |= {"COLUMNS": "100", "TERM": "dumb", "LC_ALL": "C.UTF-8"}

import numpy as np
import PIL
import torch
from PIL import Image, PngImagePlugin

import diafano

Facts = dict[str, str]
PACKAGE, FORK = Path(diafano.__file__).parent, get_context("fork")
THERE = [*map(__import__, ("pydantic", "rich.progress", "typer"))]  # as torch is, for commands that run in forks

# Cases stand between semicolons or on lines of their own; {a|b} makes two of one, and $NAMES stand for these.
NAMES = {"LONG": "a red fox, " * 20 + "(banana:0.5)", "EDITS": "a [red:blue:0.5] [fox::2] [banana:1] [star:heart:0.3]"}
NAMES |= {"WEIGHTS": r"a (red:1.4) [fox] ((banana)) \(star\)", "AND": "a fox :1.2 AND a [banana|star] :0.7 AND a star"}
NAMES |= {"CONTROL": "--control $F/control --control-image $I/picture.png", "LORA": "--lora $F/loras/style.safetensors"}
NAMES |= {"DRAW": "generate 'a red fox' --seed 3 --steps 4 --output a.png", "PAINT": "image=picture mask=mask"}
# Options of `load`, and what is asked of `generate` beyond 4 steps of a red fox with seed 3; if nothing, the parts are.
PYTHON = """
dtype={float32|bfloat16|float16}; sampler={euler_a|dpmpp_sde|dpmpp_2m_sde|dpmpp_3m_sde|dpmpp_2s_a} eta=0.5 s_noise=1.05
source={sd1|sd2v|zsnr|tiny} {|size=64x64}; source=no_vae.safetensors tokenizer=tokenizer vae=narrow_vae.safetensors
loras=loras embeddings=embeddings vae=kl; source={single2v|guess2}.safetensors tokenizer=tokenizer2 {|size=64x64}
source=guess2.safetensors tokenizer=tokenizer2 prediction=v; sampler={lms|dpm_2|dpm_2_ancestral|pndm|uni_pc|lcm} steps=6
source=single.ckpt tokenizer=tokenizer {|ema=true|size=64x64}; sampler={heun|euler|dpm_2} s_churn=2 s_noise=1.01
source=sd1 loras=loras vae=sd2v; $PAINT masked_content={original|fill|latent-noise|latent-nothing}; sampler=ddim eta=0.7
dtype=float8; schedule={automatic|uniform|karras|exponential|polyexponential|sgm_uniform|simple|normal|ddim_uniform}
source={absent|loras|evil.ckpt}; hires_size=128x96 hires_steps=3 hires_strength=0.5 sampler=euler_ancestral; image=wide
sampler={ddpm|ddim|euler|euler_ancestral|heun|dpmpp_2m|dpmpp_sde|dpmpp_2m_sde|dpmpp_2s_ancestral|dpmpp_3m_sde} steps=6
sampler='DPM++ 2M Karras'; source=zsnr sampler={ddim|euler|pndm|dpmpp_2m|ddpm} guidance_rescale=0.5 size=64x64
schedule={beta|kl_optimal|align_your_steps|lcm}; like={diffusers|a1111} source=sd2v sampler={ddim|pndm} size=64x64
prompt='{$WEIGHTS|$EDITS|$AND|}'; source=sd1 dtype=bfloat16 {|size=64x64|image=picture clip_skip=2 prompt='$WEIGHTS'}
prompt='$LONG'; hires=1.5 hires_upscaler=latent{|-antialiased|-bicubic|-bicubic-antialiased|-nearest|-nearest-exact}
prompt='a fox BREAK a (banana:1.3) on white'; image=picture outpaint={left=32,top=16|all=16} strength=0.9; deep_cache=2
prompt='<hypernet:x:1>'; like={diffusers|a1111|comfyui} sampler={uni_pc|pndm|dpmpp_sde} prompt='$LONG'; seed=-1; steps=0
guidance={[7,5,2]|7:2|1|0}; embeddings=embeddings prompt='a toy, (shade:1.3) fox' negative=embedding:toy; schedule=steep
guidance_interval=[0.2,0.7]; count=2 variation_seed=8 variation_strength=0.3; batch_size=3 batch_position=2 like=comfyui
guidance=9 guidance_rescale=0.7; $PAINT invert_mask=true mask_blur=3 count=2; hires=1.5 hires_upscaler={lanczos|nearest}
negative='[star|heart], (a:2)'; hires={64|2 hires_size=128x128|2 hires_upscaler=x}; clip_skip=2 negative='(blue:1.3)'
count=3 sampler=euler_a; image=picture {strength=2|outpaint=up=8|masked_content=x|hires=2}; rng=GPU sampler=dpmpp_2m_sde
size={[96,64]|68x108}; dtype=bfloat16 hires=2 count=2 deep_cache=2; sampler='DPM++ 2M Karras' schedule=beta; clip_skip=9
size=256x192 tiles=true steps=2; $PAINT only_masked=true mask_padding=8; image=picture strength={0|0.5|1}; sampler=dpm5
fast={1|2|3} steps=null; guidance_interval=0.8,0.2; source=tiny clip_skip=2; like=a1111 sampler=ddpm; size={100x70|8x8}
tileable={both|x|y}; source=inpainting.safetensors tokenizer=tokenizer {$PAINT|image=picture outpaint=right=32|steps=2}
like={diffusers|a1111|comfyui} sampler={euler|ddim|dpmpp_2m_sde|dpm_2_ancestral|lcm} count=2 prompt='$WEIGHTS'; fast=9
like={diffusers|a1111|comfyui} sampler={euler|dpmpp_sde} {hires=1.5|image=picture clip_skip=2 negative='(blue:2)'}
dtype=bfloat16 $PAINT; dtype=float16 steps=2; vae=kl image=picture; sampler=heun eta=0.5; guidance={7:|NaN}; tileable=z
loras=loras prompt='a fox <lora:{style:0.8|style:0.5:0.9> <lora:peft:te=0:unet=-1|stile:1|odd:1|wide:1}>'
variation_seed=1
"""
# Commands in an empty folder, in a fork where torch is loaded, or after ! from scratch; $F: --checkpoints, $I: inputs.
COMMANDS = """
! --help; convert $F/single.safetensors m --tokenizer $F/tokenizer --dtype float32 && $DRAW --model m --size 64x64
! $DRAW; $DRAW --output a.jpg --negative 'blue, "star"' --guidance 7:2 && generate --from a.jpg --output b.jpg; samplers
! $DRAW --dtype bf16; $DRAW --output a.webp --sampler 'Euler a' --schedule karras --eta 0.5 --guidance-interval 0,0.5
! paint; $DRAW --hires 1.5 --tileable x && generate --from a.png --output b.png --seed 5 && generate --from a.png; noise
{generate|tokens|samplers|noise|inspect|train|evaluate|scenes|convert|} --help; tokens '$WEIGHTS' --like comfyui --json
--version; generate 'a toy <lora:style:0.8>' --seed 1 --lora-dir $F/loras --embedding $F/embeddings/toy.safetensors
tokens '{$WEIGHTS|$EDITS|$AND}' --steps 10; $DRAW --size 64x64 --model $F/guess2.safetensors --tokenizer $F/tokenizer2
tokens 'an 🍎' --model $F/sd1; inspect $F/{sd2v|zsnr|tiny|loras|control|evil.ckpt|single.ckpt --ema|sd1 --size 96x128}
tokens '$LONG' --like diffusers; convert $F/single2.safetensors m --tokenizer $F/tokenizer2 && convert m m.safetensors
noise $I/wide.png --steps 4 --seed 5; $DRAW $CONTROL $CONTROL --control-strength 0.3 --control-strength 0.4 --hires 1.5
inspect {sd1|sd2|embedded}; $DRAW --vary steps=1,2 --vary guidance=1,4:2 --output e && $DRAW --vary steps=2,3 --output e
inspect $F/{single|single2|single2v|guess2|inpainting|no_vae|damaged|cut|empty}.safetensors; generate --from $I/mask.png
inspect $F/{narrow_vae|tiny_control|loras/style}.safetensors; generate 'a fox' --steps 1 --variation-strength 0.2
convert $F/sd1 m.safetensors --dtype bfloat16 && $DRAW --model m.safetensors --tokenizer $F/sd1/tokenizer --size 64x64
convert $F/sd2v m --shard 20; generate --prompts $I/some.jsonl --vary sampler=euler,ddim --steps 2 --size 96x64
convert $F/tiny m; convert $F/inpainting.safetensors m --tokenizer $F/tokenizer && convert m m.safetensors && inspect m
convert $F/tiny m.safetensors; $DRAW --tokenizer $F/tokenizer --model $F/{no_vae|damaged|inpainting}.safetensors
evaluate --prompts 7 --steps 2 --grid g.png; $DRAW --vary strength=0.4,0.9 --image $I/picture.png $LORA:0.5 --output .
scenes s --shipped --count 4 --size 48 --seed 2; $DRAW $CONTROL --control-strength 0.6 --control-start 0.2 --count 2
$DRAW --output . --count 3 --grid g.png --filmstrip f.png && $DRAW --output .; $DRAW $LORA --lora $I/style.safetensors
$DRAW --vary colour=red; generate '$LONG' --seed 1 --steps 2 {--negative 'a BREAK b'|--like diffusers}; inspect nowhere
$DRAW --like a1111 --sampler uni_pc; $DRAW {--steps many|--size 66x66|--colour red|more|--device abacus}; generate
generate 'a fox' --seed 1 --fast 2 --preview p.png; $DRAW --control $F/control.safetensors --control-image $I/wide.png
generate --from $I/a1111.png && generate 'a star' --from $I/a1111.png --steps 2 --image $I/wide.png --output b.png
$DRAW $LORA:0.8 --embedding $F/embeddings --vae $F/kl $CONTROL && generate --from a.png --output b.png
$DRAW $LORA:0.8 $CONTROL --control-end 0.7 && generate --from a.png $LORA $CONTROL --output b.png; $DRAW --output a.gif
$DRAW --lora $F/loras/odd.safetensors --allow-partial --vae $F/kl --preview p.png --preview-every 2
$DRAW $CONTROL --dtype bfloat16 --image $I/wide.png; $DRAW --{output|grid|preview|image|from|prompts|vae} absent/a.png
$DRAW --model $F/tiny --control $F/tiny_control.safetensors --control-image $I/wide.png --like a1111 --sampler euler
$DRAW --image $I/clear.png --mask $I/mask.png --mask-blur 2 --masked-content latent-noise --invert-mask
$DRAW --image $I/wide.png --mask $I/wide.png --only-masked && $DRAW --image $I/clear.png --outpaint left=16
train judge --config x.toml; $DRAW --model $F/{absent|cut.safetensors|single.safetensors}; $DRAW --image $I/cut.png
$DRAW --preview-every 2; $DRAW --lora $F/loras/{absent|wide}.safetensors; $DRAW $CONTROL --control-end 1 --control-end 2
$DRAW --embedding $F/wide_embedding.safetensors; $DRAW --vae $F/narrow_vae.safetensors; $DRAW $CONTROL --model $F/tiny
"""
FILES = ("source", "tokenizer", "loras", "embeddings", "vae")  # options of `load` that name what is in --checkpoints
PLAIN = r"[-\d.]+|true|false|null|NaN|\[[\d,.]*\]"  # JSON; other values are texts
PLACES: dict[str, Path] = {}  # F and I
loaded = lru_cache(maxsize=1)(diafano.load)


def cases_of(text: str) -> Iterator[str]:
    """Those of a text, with braces opened and names filled in."""
    for case in re.split(r"\n|; ", text.strip()):
        parts = [part.split("|") if number % 2 else [part] for number, part in enumerate(re.split("[{}]", case))]
        yield from (Template("".join(chosen)).safe_substitute(NAMES) for chosen in itertools.product(*parts))


def write_inputs(folder: Path) -> None:
    """Pictures and prompts that are given to commands and `generate`."""
    values = np.add.outer(np.arange(64) * 3, np.arange(96) * 2)[..., None] + (0, 40, 90)
    wide, mask = Image.fromarray((values % 256).astype(np.uint8)), Image.new("L", (64, 64))
    wide.paste((220, 40, 40), (20, 10, 50, 50))
    mask.paste(255, (12, 20, 44, 52))
    clear, known = wide.crop((0, 0, 64, 64)), PngImagePlugin.PngInfo()
    text = "a (red:1.2) fox, [banana|star]\nNegative prompt: blue\nSteps: 4, Sampler: DPM++ 2M Karras, CFG scale: 5, "
    known.add_text("parameters", f"{text}Seed: 9, Size: 64x64, Model: other, Clip skip: 2, Hypernet: x, Version: v1.6")
    clear.putalpha(mask)
    for name, image in {"picture": clear.convert("RGB"), "clear": clear, "mask": mask, "wide": wide}.items():
        image.save(folder / f"{name}.png")
    clear.save(folder / "a1111.png", pnginfo=known)
    (folder / "cut.png").write_bytes((folder / "clear.png").read_bytes()[:-300])
    (folder / "some.jsonl").write_text('{"prompt": "a fox", "seed": 5}\n{"prompt": "star", "seed": 6, "guidance": 2}\n')


def fact_of(x: Any) -> str:
    if isinstance(x, bytes):
        return f"{len(x)} bytes, {hashlib.sha256(x).hexdigest()[:16]}"
    if not isinstance(x, torch.Tensor | Image.Image):
        return repr(x)
    values, kind = (np.asarray(x), x.mode) if isinstance(x, Image.Image) else (x.double().numpy(), x.dtype)
    return f"{values.shape} {kind}, mean {values.mean():.9g}, {fact_of(values.tobytes())}"


def facts_of(path: Path) -> Facts:
    content = path.read_bytes()
    if path.suffix in (".png", ".jpg", ".webp"):
        with Image.open(path) as picture:
            said = picture.info.get("parameters") or picture.getexif().get_ifd(0x8769).get(0x9286, b"")
            return {"pixels": fact_of(picture), "text": said if isinstance(said, str) else said[8:].decode("utf-16-be")}
    if path.suffix == ".safetensors":
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        said = {"metadata": str(sorted(header.pop("__metadata__", {}).items()))}  # their order is by chance
        return said | {"header": fact_of(str(header).encode()), "tensors": fact_of(content[start:])}
    if path.name.startswith("table"):  # in its last column is how long it took
        content = re.sub(rb"[\d.]+(?=( \|)?$)", b"<seconds>", content, flags=re.MULTILINE)
    return {"content": content.decode(errors="replace") if len(content) < 4000 else fact_of(content)}


def of_commands(commands: str) -> Facts:
    """What they print, one after the other, and the files that are there afterwards."""
    facts: Facts = {}
    with tempfile.TemporaryDirectory(dir=PLACES["I"]) as folder, tempfile.TemporaryDirectory() as told:
        for number, command in enumerate(commands.split(" && "), 1):
            words = shlex.split(Template(command).substitute(PLACES))
            child = FORK.Process(target=diafano_command, args=(words, folder, told))
            child.start()
            child.join()
            facts |= {f"{path.name} of command {number}": path.read_text() for path in Path(told).iterdir()}
            facts[f"exit code of command {number}"] = str(child.exitcode)
        for path in filter(Path.is_file, () if "--variation" in commands else Path(folder).rglob("*")):  # by chance
            facts |= {f"{path.relative_to(folder)}, {kind}": text for kind, text in facts_of(path).items()}
    return facts


def diafano_command(words: list[str], folder: str, told: str) -> None:
    """``python -m diafano`` with these words, in this process, which then ends."""
    os.chdir(folder)
    for number, name in enumerate(("output", "messages"), 1):
        os.dup2(os.open(f"{told}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if words[:1] == ["!"]:
        os.environ |= {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(PACKAGE.parent)}
        os.execv(sys.executable, [sys.executable, "-m", "diafano", *words[1:]])
    sys.argv[1:] = words
    runpy.run_module("diafano", run_name="__main__", alter_sys=True)


def of_python(case: str) -> Facts:
    """What a model draws, or its parts compute; a mistake is a fact, and so is what is warned of or logged."""
    pairs = [word.partition("=")[::2] for word in shlex.split(case)]
    given = {name: json.loads(value) if re.fullmatch(PLAIN, value) else value for name, value in pairs}
    options = {name: given.pop(name) for name in (*FILES, "dtype", "prediction", "ema") if name in given}
    options |= {name: PLACES["F"] / options[name] for name in FILES if name in options}
    given |= {name: Image.open(PLACES["I"] / f"{given[name]}.png") for name in ("image", "mask") if name in given}
    logging.getLogger("diafano").filters = [lambda record: bool(warnings.warn(record.getMessage(), stacklevel=2))]
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            model = loaded(**options)
            if given:
                notes.clear()  # a model is loaded once for several drawings; what that says is a fact of its parts
            facts = of_drawing(model, **given) if given else of_parts(model)
        except Exception as error:
            facts = {"error": f"{type(error).__name__}: {error}"}
    return facts | {"notes": "\n".join(str(note.message) for note in notes)}


def of_drawing(model: Any, prompt: str = "a red fox", **settings: Any) -> Facts:
    steps: list[str] = []
    watch = {"on_step": lambda *step: steps.append(", ".join(map(fact_of, step)))}
    pictures = model.generate(prompt, **watch, **{"seed": 3, "steps": 4, **settings})
    facts = {"latents": "\n".join(steps)}
    for number, picture in enumerate(pictures):
        facts |= {f"pixels {number}": fact_of(picture), f"text {number}": picture.info["parameters"]}
    return facts


@torch.inference_mode()
def of_parts(model: Any) -> Facts:
    noise = torch.Generator().manual_seed(1)
    latent, pixels = torch.randn(2, 4, 16, 16, generator=noise), 2 * torch.rand(1, 3, 64, 96, generator=noise) - 1
    latent, pixels = latent.to(model.dtype), pixels.to(model.dtype)
    made = {"ids": model.tokenizer(["a red fox on (white)", "two bananas " * 40])}
    made["text"] = model.text_encoder(made["ids"])
    made["prediction"] = model.unet(latent, torch.tensor([10.0, 700.0]), made["text"])
    made |= {"latent": model.autoencoder.encode(pixels).mean, "pixels": model.autoencoder.decode(latent)}
    levels = [model.schedule.sigma_of(timestep) for timestep in (0, 1, 123.4, 999)]
    return {name: fact_of(x) for name, x in made.items()} | {"sigmas": f"{len(model.schedule)}: {levels}"}


def found_now(checkpoints: Path, only: str) -> Facts:
    """Of all cases, by four processes: commands first, in forks of processes that have not computed yet."""
    processor = re.findall(r"^(?:model name|flags)\s*:.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[:2]
    machine = [sys.version, *(f"{one.__name__} {one.__version__}" for one in (torch, np, PIL)), *processor]
    found = {"machine\n  has": "\n".join(machine)}
    with tempfile.TemporaryDirectory() as inputs:
        PLACES.update(F=checkpoints.resolve(), I=Path(inputs))
        os.environ["HF_HOME"] = f"{inputs}/hub"
        write_inputs(Path(inputs))
        for text, facts_of_case in ((COMMANDS, of_commands), (PYTHON, of_python)):
            cases = [case for case in cases_of(text) if only in case]
            with ProcessPoolExecutor(4, FORK) as pool:
                for case, facts in zip(cases, pool.map(facts_of_case, cases, chunksize=3), strict=True):
                    found |= {f"{case}\n  {name}": fact for name, fact in facts.items()}
    marks = {rf"{inputs}/tmp\w+": "<here>", inputs: "$I", str(PLACES["F"]): "$F", r"(?<=seed) \d+$": " <by chance>"}
    marks |= {str(PACKAGE): "<package>", rf"(^|diafano ){diafano.__version__}\b": r"\1<version>"}
    for mark, stands in marks.items():
        found = {name: re.sub(mark, stands, fact, flags=re.MULTILINE) for name, fact in found.items()}
    return found


def differences(before: Facts, now: Facts) -> Iterator[str]:
    """One for each fact: what was is behind a minus, what is behind a plus."""
    for name in sorted(before.keys() | now.keys()):
        one, other = (facts.get(name, "<nothing>").split("\n") for facts in (before, now))
        if one != other:
            lines = list(difflib.unified_diff(one, other, n=0, lineterm=""))[2:]
            yield "\n    ".join([name, *(line for line in lines if not line.startswith("@@"))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the models and add-ons")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep what is found")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with what was kept")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases with this word in them")
    given = parser.parse_args()
    found = found_now(given.checkpoints, given.only)
    print(f"{PACKAGE}: {len({name.splitlines()[0] for name in found}) - 1} cases, {len(found)} facts")
    if given.write:
        given.write.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    if given.against:
        kept = json.loads(given.against.read_text())
        apart = list(differences({name: kept[name] for name in kept if given.only in name or name in found}, found))
        print(*apart, f"{len(apart)} facts differ", sep="\n")
        sys.exit(bool(apart))


if __name__ == "__main__":
    main()
