"""Stable Diffusion v1 at its true size, with random weights: the shapes of a run and the memory it takes."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource
import torch
from diafano.families.presets import PRESETS, build

torch.manual_seed(0)
parts = build(PRESETS["sd1"], dtype=torch.bfloat16)
with torch.inference_mode():
    pixels = torch.rand(1, 3, 512, 512).to(torch.bfloat16) * 2 - 1
    latent = parts.autoencoder.encode(pixels).mean
    text = parts.text_encoder(torch.randint(0, 49408, (1, 77)))
    noise = parts.unet(latent, torch.tensor([500.0]), text)
    drawn = parts.autoencoder.decode(noise)
shapes = {name: list(value.shape) for name, value in vars().copy().items() if isinstance(value, torch.Tensor)}
finite = bool(torch.isfinite(drawn).all())
print(json.dumps({"shapes": shapes, "finite": finite, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


@pytest.mark.slow
def test_a_512_picture_runs_through_sd1_in_under_8_gib() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["shapes"]["latent"] == [1, 4, 64, 64]
    assert seen["shapes"]["text"] == [1, 77, 768]
    assert seen["shapes"]["noise"] == [1, 4, 64, 64]
    assert seen["shapes"]["drawn"] == [1, 3, 512, 512]
    assert seen["finite"]
    assert seen["peak"] < 8 * 2**20, f"{seen['peak']} KiB"
