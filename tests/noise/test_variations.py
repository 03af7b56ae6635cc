"""Variations: A1111's slerp and its counting of seeds; strength 0 is the picture, strength 1 the other seed's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.noise.philox import Philox
from diafano.noise.variations import slerp
from diafano.pictures.files import read_parameters
from diafano.request.recorded import from_infotext
from diafano.stable_diffusion import StableDiffusion

LIKE = [None, "diffusers", "a1111", "comfyui"]


def a1111(val: float, low: Tensor, high: Tensor) -> Tensor:
    """A1111 1.10's rng.py, of one picture (4, h, w)."""
    low_norm = low / torch.norm(low, dim=1, keepdim=True)
    high_norm = high / torch.norm(high, dim=1, keepdim=True)
    dot = (low_norm * high_norm).sum(1)
    omega = torch.acos(dot)
    so = torch.sin(omega)
    return (torch.sin((1.0 - val) * omega) / so).unsqueeze(1) * low + (torch.sin(val * omega) / so).unsqueeze(1) * high


def pictures(model: StableDiffusion, **settings: Any) -> np.ndarray:
    settings = {"seed": 3, "sampler": "ddim", "steps": 3, **settings}
    return np.stack([np.asarray(one).astype(int) for one in model.generate("a fox", **settings)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_slerp_is_a1111s(share: float) -> None:
    low, high = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(share, low, high), a1111(share, low, high), rtol=1e-6, atol=1e-6)


def test_slerp_ends_at_its_ends_and_keeps_the_length() -> None:
    low, high = torch.randn(2, 4, 512, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slerp(0.0, low, high), low) and torch.equal(slerp(1.0, low, high), high)
    assert slerp(0.5, low, high).std() == pytest.approx(1.0, abs=0.02)  # half of each would have 0.71
    assert torch.equal(slerp(0.5, low, low), low)
    turned = slerp(0.5, torch.tensor([[[2.0], [0.0]]]), torch.tensor([[[0.0], [2.0]]]))
    torch.testing.assert_close(turned, torch.full((1, 2, 1), 2.0**0.5))


@pytest.mark.parametrize("like", LIKE)
def test_strength_zero_is_the_picture_and_one_the_other_seeds(tiny_model: StableDiffusion, like: str | None) -> None:
    own, other = pictures(tiny_model, like=like), pictures(tiny_model, like=like, seed=8)
    assert (pictures(tiny_model, like=like, variation_seed=8, variation_strength=0.0) == own).all()
    assert (pictures(tiny_model, like=like, variation_seed=8, variation_strength=1.0) == other).all()
    between = pictures(tiny_model, like=like, variation_seed=8, variation_strength=0.3)
    assert 0 < np.abs(between - own).mean() < np.abs(between - other).mean()


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
def test_of_a_batch_the_seed_stays_and_the_second_one_counts(
    tiny_model: StableDiffusion, like: str | None, sampler: str
) -> None:
    if (like, sampler) == ("diffusers", "dpmpp_sde"):
        pytest.skip("a sampler that draws another picture there")
    settings = {"like": like, "sampler": sampler, "variation_strength": 0.2}
    batch = pictures(tiny_model, variation_seed=8, count=3, **settings)
    if like != "comfyui":  # there one generator draws the noise of the whole batch
        for place in (0, 2):
            alone = pictures(tiny_model, variation_seed=8 + place, **settings)[0]
            assert np.abs(batch[place] - alone).max() <= 1
    assert np.abs(batch[0] - batch[1]).max() > 2


def test_the_a1111_profile_starts_from_a1111s_noise(tiny_model: StableDiffusion) -> None:
    request = tiny_model.request("a fox", seed=3, variation_seed=8, variation_strength=0.4, like="a1111", count=2)
    noise = tiny_model.noise(tiny_model.plan(request).passes[0], range(2))
    own, others = Philox(3).normal((4, 8, 8)), [Philox(seed).normal((4, 8, 8)) for seed in (8, 9)]
    expected = torch.stack([a1111(0.4, own, other) for other in others])
    torch.testing.assert_close(noise(), expected, rtol=1e-5, atol=1e-5)
    first = Philox(3)
    first.normal((4, 8, 8))
    torch.testing.assert_close(noise(), first.normal((1, 4, 8, 8)).expand(2, -1, -1, -1))  # what ancestral steps add


def test_variations_are_recorded_and_drawn_again(
    tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--model", str(tiny_folder), "--sampler", "ddim", "--steps", "3", "--seed", "3"]
    said = ["--variation-seed", "8", "--variation-strength", "0.2", "--count", "2", "--output", str(tmp_path)]
    assert cli.run([*command, "a fox", *said]) == 0
    drawn = sorted(tmp_path.glob("*.png"))
    assert [path.name for path in drawn] == ["a-fox-3-8.png", "a-fox-3-9.png"]
    assert "Seed: 3," in (text := read_parameters(drawn[1]) or "")
    assert "Variation seed: 9, Variation seed strength: 0.2" in text
    again = str(tmp_path / "again.png")
    assert cli.run(["generate", "--from", str(drawn[1]), "--model", str(tiny_folder), "--output", again]) == 0
    assert np.abs(np.asarray(Image.open(again), int) - np.asarray(Image.open(drawn[1]), int)).max() <= 1
    capsys.readouterr()
    assert cli.run([*command, "a fox", "--variation-strength", "0.2", "--output", again]) == 0
    assert "variation seed " in capsys.readouterr().err

    recorded = from_infotext(
        "a fox\nSteps: 3, Sampler: DDIM, Seed: 11, Variation seed: 5, Variation seed strength: 0.1"
    )
    request = tiny_model.request(recorded.prompt, **recorded.settings)
    assert (request.variation_seed, request.variation_strength, recorded.ignored) == (5, 0.1, ())
    plain = tiny_model.generate("a fox", seed=3, variation_seed=8, variation_strength=0.0)[0]
    assert "Variation" not in plain.info["parameters"]


def test_a_second_seed_without_strength_is_one_sentence(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match="variation_seed and variation_strength belong together"):
        tiny_model.generate("a fox", variation_seed=5)
    with pytest.raises(UserError, match="variation_strength 2"):
        tiny_model.generate("a fox", variation_seed=5, variation_strength=2.0)
