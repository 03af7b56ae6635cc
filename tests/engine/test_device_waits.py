"""Drawing never waits for the device between two steps: a GPU is told of the next step while it works on the last.

There need be no GPU for that: the UNet lies on torch's meta device, which knows shapes but no values. Asking it for a
value (`item`, `float`, `if tensor`) is an error there, and each tensor that goes from one device to the other is seen.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import diafano
from diafano.engine.devices import to_device
from diafano.networks.conditioning import Conditioning
from diafano.sampling.prompts import StepPrompts
from diafano.sampling.run import Watchers
from diafano.sampling.samplers.table import SAMPLERS
from diafano.stable_diffusion import StableDiffusion

META = torch.device("meta")
STEPS = 5


class Crossings(TorchDispatchMode):
    """Counts the operations that read one device and write another, by the shape that crosses."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its type out
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors if tensor.ndim > 0 or tensor.device == META}) > 1:
            self.shapes.append(tuple(tensors[0].shape))
        return made


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    """The embedded model, its UNet on the meta device."""
    loaded = diafano.load(device="cpu")
    loaded.unet.to(META)
    return loaded


def crossings(model: StableDiffusion, **settings: Any) -> list[tuple[int, ...]]:
    """The shapes that cross between the first step and the last."""
    request, start = model.prepare("a cat", steps=STEPS, seed=1, **settings)
    text = torch.empty(77, model.unet.config.text_width, device=META)
    (one,) = model.plan(request).passes
    prompts = [StepPrompts(((Conditioning(text[None]), 1.0),), Conditioning(text[None]))] * one.run.steps
    if start is not None:
        start = on_meta(start)
    marks: list[int] = []
    with torch.inference_mode(), Crossings() as seen:
        watchers = Watchers(on_step=lambda *_: marks.append(len(seen.shapes)))
        model.denoise(one, prompts, model.noise(one, range(1)), start=start, watchers=watchers)
    assert len(marks) >= 2
    return seen.shapes[marks[0] : marks[-1]]


def on_meta(start: Any) -> Any:
    """The picture to draw over as it would be had the autoencoder been on the device."""
    from dataclasses import fields, replace

    tensors = {f.name: getattr(start, f.name) for f in fields(start) if isinstance(getattr(start, f.name), Tensor)}
    return replace(start, **{name: tensor.to(META) for name, tensor in tensors.items()})


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_asks_the_device_for_anything(model: StableDiffusion, name: str) -> None:
    """Only noise goes there, in the samplers that add some, and is sent without waiting."""
    crossed = crossings(model, sampler=name)
    assert bool(crossed) == SAMPLERS[name].stochastic
    assert set(crossed) <= {(1, 4, 16, 16)}


@pytest.mark.parametrize("like", ["diffusers", "a1111", "comfyui"])
def test_nor_do_the_profiles(model: StableDiffusion, like: str) -> None:
    assert crossings(model, sampler="euler", like=like) == []


@pytest.mark.parametrize("masked", [False, True])
def test_nor_does_drawing_over_a_picture(model: StableDiffusion, masked: bool) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    mask = {"mask": Image.linear_gradient("L").resize((64, 64))} if masked else {}
    assert crossings(model, sampler="euler", image=picture, strength=0.9, **mask) == []


def test_the_watcher_sees_what_it_is_to_see() -> None:
    with Crossings() as seen:
        torch.ones(3).to(META)
        assert seen.shapes == [(3,)]
        with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
            float(torch.ones(3, device=META).sum())


def test_noise_is_sent_to_a_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from ordinary memory would wait for the GPU."""
    told: list[object] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: told.append("pinned") or tensor)
    monkeypatch.setattr(Tensor, "to", lambda tensor, device, **how: told.append((device.type, how)) or tensor)
    to_device(torch.ones(2), torch.device("cuda"))
    assert told == ["pinned", ("cuda", {"non_blocking": True})]
    told.clear()
    to_device(torch.ones(2), torch.device("cpu"))
    assert told == [("cpu", {})]
