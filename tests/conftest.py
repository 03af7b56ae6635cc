"""What several test files share: a model so small that it draws in a moment, and hypothesis without a clock."""

# ruff: noqa: E402 (the threads' setting comes before torch)

from diafano.engine.threads import wait_asleep

wait_asleep()

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings

from diafano.checkpoints.diffusers import save_folder
from diafano.errors import Notes, collect_notes
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.request.card import ModelCard
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.tokenizer import train_byte_pair

# The machine may be busy with something else, and a failure should come back when it is looked for.
settings.register_profile("diafano", deadline=None, derandomize=True)
settings.load_profile("diafano")

CAPTIONS = ["a red apple on a blue background", "two bananas", "a penguin", "a small green fox above a big cat"]


@pytest.fixture(autouse=True)
def notes() -> Iterator[Notes]:
    """What a test makes the package note outside of the commands. Like a warning it fails the test unless expected."""
    with collect_notes() as noted:
        yield noted
    assert not noted, "these notes were not expected"


@pytest.fixture(scope="session")
def tiny_model() -> StableDiffusion:
    """Random weights, 64x64 pictures, latent (4, 8, 8), 4 steps: for shapes, files and commands. It draws nothing."""
    tokenizer = train_byte_pair(CAPTIONS, 600, minimum_frequency=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = CLIPTextEncoder(
            CLIPTextConfig(
                vocabulary=tokenizer.vocabulary_size,
                width=16,
                mlp_width=32,
                layers=1,
                heads=2,
                start_token=tokenizer.start_token,
                end_token=tokenizer.end_token,
                pad_token=tokenizer.pad_token,
            )
        )
        unet = UNet(
            UNetConfig(widths=(8, 16), layers=1, attention=(True, False), heads=(2, 2), text_width=16, groups=4)
        )
        autoencoder = Autoencoder(AutoencoderConfig(widths=(8, 8, 8, 8), layers=1, groups=4))
    return StableDiffusion(
        tokenizer,
        encoder.eval(),
        unet.eval(),
        autoencoder.eval(),
        NoiseSchedule(ScheduleConfig()),
        ModelCard(name="tiny", size=(64, 64), steps=4, guidance=2.0, sampler="ddim"),
    )


@pytest.fixture(scope="module", autouse=True)
def _shared_weights_stay(tiny_model: StableDiffusion) -> Iterator[None]:
    """A test that changes the model which all tests share fails its own file, not those that come after it."""
    before = fingerprint(tiny_model)
    yield
    assert fingerprint(tiny_model) == before, "a test changed tiny_model: let it change a deepcopy"


def fingerprint(model: StableDiffusion) -> list[object]:
    """Of all weights: values, dtype, layout, and whether they can be trained."""
    return [
        (name, weight.dtype, weight.stride(), weight.is_inference(), weight.requires_grad, weight.double().sum().item())
        for network in (model.text_encoder, model.unet, model.autoencoder)
        for name, weight in network.named_parameters()
    ]


@pytest.fixture(scope="session")
def narrow_model(tiny_model: StableDiffusion) -> Callable[[bool], StableDiffusion]:
    """Random weights in a form that a single file can say: of the second family if asked, else of the first."""

    def make(second: bool = False) -> StableDiffusion:
        words = tiny_model.tokenizer
        text = CLIPTextConfig(
            vocabulary=words.vocabulary_size,
            width=64,
            mlp_width=64,
            layers=1,
            heads=1,
            activation="gelu" if second else "quick_gelu",
            start_token=words.start_token,
            end_token=words.end_token,
            pad_token=0 if second else words.pad_token,
        )
        heads = (1,) if second else (8,)
        unet = UNetConfig(
            widths=(32,), layers=1, attention=(True,), heads=heads, text_width=64, linear_projection=second
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return StableDiffusion(
                words,
                CLIPTextEncoder(text).eval(),
                UNet(unet).eval(),
                Autoencoder(AutoencoderConfig(widths=(32, 32), layers=1)).eval(),
                NoiseSchedule(ScheduleConfig(final_sigma="first")),
                ModelCard(name="narrow", size=(64, 64), steps=2),
            )

    return make


@pytest.fixture(scope="session")
def tiny_folder(tiny_model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` as a diffusers folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(tiny_model, folder)
    return folder


@pytest.fixture(scope="session")
def k_diffusion() -> Any:
    """k-diffusion's `sampling` and `external` alone: the package's other modules need much that neither does."""
    if any(importlib.util.find_spec(name) is None for name in ("k_diffusion", "scipy")):
        pytest.skip("k-diffusion and scipy are not installed")
    package = importlib.util.find_spec("k_diffusion")
    assert package is not None and package.submodule_search_locations
    fakes: dict[str, Any] = {
        "kd": ModuleType("kd"),
        "kd.utils": ModuleType("kd.utils"),
        "torchsde": ModuleType("torchsde"),
        "torchdiffeq": SimpleNamespace(odeint=None),
    }
    fakes["kd"].__path__ = list(package.submodule_search_locations)
    fakes["kd"].utils = fakes["kd.utils"]
    fakes["kd.utils"].append_dims = lambda x, dims: x.reshape(x.shape + (1,) * (dims - x.ndim))
    with pytest.MonkeyPatch.context() as patch:
        for name, fake in fakes.items():
            patch.setitem(sys.modules, name, fake)
        for name in ("sampling", "external"):
            spec = importlib.util.spec_from_file_location(f"kd.{name}", f"{fakes['kd'].__path__[0]}/{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, f"kd.{name}", module)
            setattr(fakes["kd"], name, module)
            spec.loader.exec_module(module)
    return fakes["kd"]


@pytest.fixture(scope="session")
def spandrel() -> Any:
    """The loader of upscalers that ComfyUI and A1111 use; torchvision, which other networks of it want, is made up."""
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    functional = SimpleNamespace(InterpolationMode=None, rotate=None, normalize=None)
    there = importlib.util.find_spec("torchvision") is not None
    with pytest.MonkeyPatch.context() as patch:
        for name in () if there else names:
            patch.setitem(sys.modules, name, functional if name.endswith("functional") else ModuleType(name))
        return importlib.import_module("spandrel")
