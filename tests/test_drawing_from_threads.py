"""One model, several threads: each picture is the one that is drawn alone, and the model stays what it was."""

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diafano.checkpoints.lora import LoraFiles
from diafano.engine import prepacked
from diafano.networks.controlnet import ControlNet
from diafano.sampling.control import Control
from diafano.stable_diffusion import StableDiffusion

ROUNDS = 15
STYLED = "a fox <lora:ink>"
Drawing = Callable[[StableDiffusion], bytes]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("loras"), torch.Generator().manual_seed(1)
    places = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": 8}
    places["lora_te_text_model_encoder_layers_0_self_attn_v_proj"] = 16
    tensors = {}
    for place, width in places.items():
        tensors[f"{place}.lora_down.weight"] = 2 * torch.randn(2, width, generator=generator)
        tensors[f"{place}.lora_up.weight"] = torch.randn(width, 2, generator=generator)
    save_file(tensors, folder / "ink.safetensors")
    return folder


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["prepacked", "fused"])
def model(tiny_model: StableDiffusion, loras: Path, request: pytest.FixtureRequest) -> StableDiffusion:
    model = copy.deepcopy(tiny_model)
    for network in (model.text_encoder, model.unet, model.autoencoder):
        network.to(request.param)
    model.addons.find_lora = LoraFiles(model, (loras,))
    return model


@pytest.fixture
def unchanged(model: StableDiffusion) -> Iterator[None]:
    """All weights are the very same afterwards, and no layer computes by anything but its class's `forward`."""
    model.generate(STYLED, steps=1)  # what is laid out or read at first use is there
    networks = (model.text_encoder, model.unet, model.autoencoder)
    before = [(weight, weight.data_ptr(), weight.detach().clone()) for one in networks for weight in one.parameters()]
    yield
    for weight, place, bits in before:
        assert weight.data_ptr() == place and torch.equal(weight, bits)
    assert not [layer for one in networks for layer in one.modules() if "forward" in vars(layer)]


def picture(model: StableDiffusion, prompt: str, **settings: Any) -> bytes:
    return model.generate(prompt, seed=1, steps=2, **settings)[0].tobytes()


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each of them gives, begun at the same moment in threads."""
    together = threading.Barrier(len(work))

    def begin(one: Callable[[], Any]) -> Any:
        together.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(begin, work))


def check(model: StableDiffusion, *drawings: Drawing, rounds: int = ROUNDS) -> None:
    """Every two of the drawings in two threads, again and again, against each alone, before and after."""
    alone = [draw(model) for draw in drawings]
    assert len(set(alone)) == len(alone), "else nothing could be mixed up"
    pairs = [(one, other) for one in range(len(drawings)) for other in range(one)]
    for turn in range(rounds):
        for pair in pairs[turn % len(pairs) :][:1]:
            assert at_once(*(lambda at=at: drawings[at](model) for at in pair)) == [alone[at] for at in pair]
    assert [draw(model) for draw in drawings] == alone


@pytest.mark.usefixtures("unchanged")
def test_complaint_two_threads_and_a_lora_ruin_the_model(model: StableDiffusion) -> None:
    prompts = ("a red apple", STYLED, "two bananas")
    check(model, *(lambda model, prompt=prompt: picture(model, prompt) for prompt in prompts))


@pytest.mark.usefixtures("unchanged")
def test_what_wraps_around_and_what_does_not(model: StableDiffusion) -> None:
    axes = (None, "both", "x")
    check(model, *(lambda model, axes=axes: picture(model, STYLED, tileable=axes) for axes in axes), rounds=6)


@pytest.mark.usefixtures("unchanged")
def test_a_picture_to_draw_over(model: StableDiffusion) -> None:
    over = [Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("RGB", (64, 64), "red"), None]
    check(model, *(lambda model, image=image: picture(model, STYLED, image=image) for image in over), rounds=6)


@pytest.mark.usefixtures("unchanged")
def test_a_controlnet_that_two_models_share(model: StableDiffusion) -> None:
    """They share the text encoder and the UNet as well, and have autoencoders of their own."""
    other = model.with_autoencoder(copy.deepcopy(model.autoencoder), "own", "0")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = ControlNet.copied_from(model.unet, (8, 12, 16, 16)).to(model.dtype).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    hint = Image.new("RGB", (64, 64), "white")

    def controlled(model: StableDiffusion, strength: float) -> bytes:
        return picture(model, STYLED, controls=[Control(network, hint, strength=strength)])

    check(
        model,
        lambda model: controlled(model, 1.0),
        lambda _: controlled(other, 0.5),
        lambda _: picture(other, "a fox"),
        rounds=6,
    )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt])
def test_one_is_cancelled_and_the_other_is_not(model: StableDiffusion, kind: type[BaseException]) -> None:
    def cancelled() -> str:
        def on_step(step: int, *_: object) -> None:
            if step == 1:
                raise kind

        try:
            model.generate(STYLED, steps=4, on_step=on_step)
        except kind:
            return "cancelled"
        return "drawn"

    alone = picture(model, "a fox")
    for _ in range(5):
        assert at_once(cancelled, lambda: picture(model, "a fox"), cancelled) == ["cancelled", alone, "cancelled"]


@pytest.mark.usefixtures("unchanged")
def test_a_drawing_within_a_drawing(model: StableDiffusion) -> None:
    """As a preview does: it is the same thread's turn, while another one waits."""
    alone = picture(model, "a fox")

    def outer() -> bytes:
        found: list[bytes] = []
        decoded: list[torch.Tensor] = []

        def on_step(step: int, _: float, __: torch.Tensor, clean: torch.Tensor) -> None:
            decoded.extend(model.decode(clean))
            if step == 1:
                found.append(picture(model, "a fox"))

        model.generate("two bananas", steps=2, on_step=on_step)
        assert len(decoded) == 2 and all(bool(np.isfinite(one.numpy()).all()) for one in decoded)
        return found[0]

    assert at_once(outer, lambda: picture(model, "a fox")) == [alone, alone]


def test_there_is_something_to_mix_up(model: StableDiffusion) -> None:
    if model.dtype == torch.float32:
        assert prepacked.available() and prepacked.is_small(model.unet)
