"""When pictures go through the autoencoder in tiles: as asked, where they are large, and where memory is not enough."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diafano.engine import bands, tiles
from diafano.engine.tiles import decode, encode
from diafano.errors import UserError
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.stable_diffusion import StableDiffusion
from helpers import told

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 10 GB)"),
    RuntimeError("std::bad_alloc"),
]
LATENT = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def called(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which ways were taken, in turn."""
    ways: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: ways.append(name) or function(*given)

    monkeypatch.setattr(bands, "decode", noted("tiles", bands.decode))
    monkeypatch.setattr(bands, "encode", noted("tiles", bands.encode))
    for name in ("decode", "encode"):
        whole = noted("whole", getattr(tiny_model.autoencoder, name))
        monkeypatch.setattr(tiny_model.autoencoder, name, whole, raising=False)
    return ways


def failing(autoencoder: Autoencoder, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(autoencoder, "decode", fail)
    monkeypatch.setattr(autoencoder, "encode", fail)


@torch.inference_mode()
def test_a_setting_decides(tiny_model: StableDiffusion, called: list[str]) -> None:
    (whole,) = decode(tiny_model.autoencoder, LATENT, tiles=False)
    (banded,) = decode(tiny_model.autoencoder, LATENT, tiles=True)
    (automatic,) = decode(tiny_model.autoencoder, LATENT)
    assert called == ["whole", "tiles", "whole"]
    torch.testing.assert_close(banded, whole, rtol=0, atol=1e-5)
    assert torch.equal(automatic, whole)


@torch.inference_mode()
def test_large_pictures_go_in_tiles_and_the_user_is_told(
    tiny_model: StableDiffusion, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "LARGEST_WHOLE", 10 * 8 * 64 * 64 * 4 - 1)
    with told("a picture of 64x64 is decoded in tiles: the same picture in less memory"):
        list(decode(tiny_model.autoencoder, LATENT))
    with told("a picture of 64x64 is encoded in tiles"):
        encode(tiny_model.autoencoder, torch.zeros(1, 3, 64, 64))
    list(decode(tiny_model.autoencoder, LATENT, tiles=False))
    list(decode(tiny_model.autoencoder, LATENT[:, :, :7]))
    assert called == ["tiles", "tiles", "whole", "whole"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_true_sizes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Stable Diffusion 1, nothing is computed: 512x512 as a whole, 1024x1024 and more in tiles."""
    autoencoder, ways = Autoencoder(AutoencoderConfig(widths=(128,) * 4, layers=1)).to(dtype), []
    monkeypatch.setattr(bands, "decode", lambda *_: ways.append("tiles") or torch.zeros(1, 3, 1, 1))
    monkeypatch.setattr(autoencoder, "decode", lambda *_: ways.append("whole") or torch.zeros(1, 3, 1, 1))
    list(decode(autoencoder, torch.zeros(1, 4, 64, 64)))
    with told("in tiles"):
        for edge in (1024, 2048):
            list(decode(autoencoder, torch.zeros(1, 4, edge // 8, edge // 8)))
    assert ways == ["whole", "tiles", "tiles"]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {error}"[:30])
@torch.inference_mode()
def test_out_of_memory_falls_back_to_tiles(
    tiny_model: StableDiffusion, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = decode(tiny_model.autoencoder, LATENT)
    seen = encode(tiny_model.autoencoder, expected[None])
    failing(tiny_model.autoencoder, error, monkeypatch)
    with told("memory was not enough for a picture of 64x64 to be decoded as a whole: it is"):
        (pixels,) = decode(tiny_model.autoencoder, LATENT)
    with told("to be encoded as a whole"):
        again = encode(tiny_model.autoencoder, expected[None])
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, seen, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="as a whole: let it be done in tiles"):
        list(decode(tiny_model.autoencoder, LATENT, tiles=False))
    monkeypatch.setattr(bands, "decode", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match="even in tiles: make it smaller"):
        list(decode(tiny_model.autoencoder, LATENT, tiles=True))


def test_other_errors_are_not_taken_for_it(tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(tiny_model.autoencoder, RuntimeError("shapes do not fit"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(decode(tiny_model.autoencoder, LATENT))


PROGRAM = """
import resource
import torch
from diafano.engine import bands
from diafano.engine import tiles
from diafano.errors import collect_notes
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig

autoencoder = Autoencoder(AutoencoderConfig(widths=(64, 16, 16, 16), layers=1, groups=8, middle_attention=False))
autoencoder.to(memory_format=torch.channels_last)
latent = torch.randn(1, 4, 64, 64)
bands.BAND_VALUES = 2**19
with torch.inference_mode():
    bands.decode(autoencoder, latent[:, :, :8, :8])  # starts the threads, loads the libraries
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 250 * 2**20, -1))
    with collect_notes() as told:
        (pixels,) = tiles.decode(autoencoder, latent)
print(*told, pixels.isfinite().all().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the address space")
def test_a_true_lack_of_memory() -> None:
    """A map of 512x512 and 64 channels takes 64 MiB: in tiles there are two and a bit, of a whole picture five."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    said = "memory was not enough for a picture of 512x512 to be decoded as a whole: it is decoded in tiles"
    assert done.stdout.strip() == f"{said} True"


def test_tiles_are_a_setting_that_leaves_no_trace(tiny_model: StableDiffusion, called: list[str]) -> None:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    drawn = [tiny_model.generate("a fox", seed=1, image=image, tiles=tiles)[0] for tiles in (False, True)]
    assert called == ["whole", "whole", "tiles", "tiles"]
    one, other = (np.asarray(picture).astype(int) for picture in drawn)
    assert np.abs(one - other).max() <= 1
    assert drawn[0].info["parameters"] == drawn[1].info["parameters"]
