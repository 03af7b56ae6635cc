"""A drawing that is cancelled, wherever it is by then: nothing of a LoRA stays in the weights, nothing on the disk."""

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import save_file

import diafano
from diafano.checkpoints.lora import LoraFiles
from diafano.cli import main as cli
from diafano.networks import lora, lora_updates
from diafano.stable_diffusion import StableDiffusion

STYLED = "a fox <lora:style:0.8> <lora:other:-0.5>"


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs for the tiny model, which change one layer both and another one each."""
    folder = tmp_path_factory.mktemp("loras")
    query, value = "unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "te_text_model_encoder_layers_0"
    places = {"style": {query: 8, f"{value}_self_attn_v_proj": 16}, "other": {query: 8, f"{value}_mlp_fc1": 16}}
    for seed, (name, layers) in enumerate(places.items()):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for place, width in layers.items():
            out = 32 if place.endswith("fc1") else width
            tensors[f"lora_{place}.lora_down.weight"] = 2 * torch.randn(2, width, generator=generator)
            tensors[f"lora_{place}.lora_up.weight"] = torch.randn(out, 2, generator=generator)
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def model(tiny_model: StableDiffusion, loras: Path) -> StableDiffusion:
    model = copy.deepcopy(tiny_model)
    model.addons.find_lora = LoraFiles(model, (loras,))
    model.generate(STYLED, steps=1)  # what is laid out or read at first use is there
    return model


@pytest.fixture
def unchanged(model: StableDiffusion) -> Callable[[], None]:
    """Fails unless all weights are the very same tensors, of the very same bits, and the model draws as before."""
    before = [(weight.data_ptr(), weight.detach().clone()) for weight in weights(model)]
    drawn = {prompt: picture(model, prompt) for prompt in ("a fox", STYLED)}
    assert (drawn["a fox"] != drawn[STYLED]).any()

    def check() -> None:
        for weight, (place, bits) in zip(weights(model), before, strict=True):
            assert weight.data_ptr() == place and torch.equal(weight, bits) and not weight.is_inference()
        for prompt, expected in drawn.items():
            assert (picture(model, prompt) == expected).all()

    return check


TELLING = """
import sys
from rich.progress import Progress
from diafano.cli import main as cli
Progress.advance = lambda *_: print("step", flush=True)
sys.exit(cli.run(sys.argv[1:]))
"""
"""The command, saying when it is drawing."""


def weights(model: StableDiffusion) -> list[torch.nn.Parameter]:
    return [weight for part in (model.text_encoder, model.unet, model.autoencoder) for weight in part.parameters()]


def picture(model: StableDiffusion, prompt: str) -> Any:
    return np.asarray(model.generate(prompt, seed=1, steps=2)[0])


class Cancelled(Exception):
    """What a program of somebody else's may raise."""


@pytest.mark.parametrize("step", [0, 2, 5], ids=["first step", "in the middle", "second pass"])
@pytest.mark.parametrize("kind", [Cancelled, KeyboardInterrupt])
def test_on_step_cancels(
    model: StableDiffusion, unchanged: Callable[[], None], step: int, kind: type[BaseException]
) -> None:
    def on_step(at: int, *_: object) -> None:
        if at == step:
            raise kind

    with pytest.raises(kind):
        model.generate(STYLED, steps=4, hires=1.5, on_step=on_step)
    unchanged()
    model.text_encoder(torch.zeros(1, 5, dtype=torch.int64)).sum().backward()  # it can still be trained


def test_a_second_interruption_while_the_weights_come_back(
    model: StableDiffusion, unchanged: Callable[[], None]
) -> None:
    """Interrupted at each line that puts LoRAs in or takes them out: the originals come back all the same."""
    functions = {code.co_name for code in (lora.MergedLoras.put.__code__, lora_updates.Update.delta.__code__)}
    files = {lora.__file__, lora_updates.__file__}
    functions |= {"_weigh", "_compute", "_restore", "remove", "set_strength", "clear"}
    at = count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files or frame.f_code.co_name not in functions:
            return None
        if event == "line":
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return trace

    def run() -> None:
        nonlocal count
        count = 0
        sys.settrace(trace)
        try:
            with lora.merged(model.unet, model.text_encoder, model.addons.loras_of(STYLED)):
                pass
        finally:
            sys.settrace(None)

    run()
    lines = count
    assert lines > 60
    before = [(weight.data_ptr(), weight.detach().clone()) for weight in weights(model)]
    for at in range(1, lines + 1):
        with pytest.raises(KeyboardInterrupt):
            run()
        for weight, (place, bits) in zip(weights(model), before, strict=True):
            assert weight.data_ptr() == place and torch.equal(weight, bits), at
    unchanged()


def test_control_c_in_the_command(
    model: StableDiffusion,
    unchanged: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal itself, in the third step of the second batch."""
    monkeypatch.setattr(diafano, "load", lambda *_, **__: model)
    monkeypatch.setattr("diafano.request.plan.BATCH_PIXELS", 2 * 64 * 64)
    steps = 0

    def advance(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "advance", advance)
    files = ["--output", tmp_path / "a.png", "--grid", tmp_path / "b.png", "--filmstrip", tmp_path / "c.png"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.run(["generate", STYLED, "--steps", "4", "--count", "4", *map(str, files)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == 7
    assert capsys.readouterr() == ("", "diafano: interrupted\n")
    assert not list(tmp_path.iterdir())
    unchanged()


@pytest.mark.slow
def test_control_c_in_a_process_of_its_own(tiny_folder: Path, loras: Path, tmp_path: Path) -> None:
    """Nothing is left on the disk, and the files of the model, which its weights are mapped from, are as they were."""
    files = {path: path.read_bytes() for path in tiny_folder.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", TELLING, "generate", STYLED, "--model", str(tiny_folder)]
    process = subprocess.Popen(
        [*command, "--lora-dir", str(loras), "--steps", "1000", "--count", "100", "--output", "a.png"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs are started deaf to it
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "diafano: interrupted\n"
    assert not list(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in tiny_folder.rglob("*") if path.is_file()} == files
