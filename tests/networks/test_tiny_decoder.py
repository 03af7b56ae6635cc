"""TAESD's decoder held against diffusers' AutoencoderTiny on random weights, from all forms of file that there are."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import diafano
from diafano.checkpoints.tiny_decoder import SHIPPED, load_tiny_decoder, save_tiny_decoder
from diafano.errors import UserError
from diafano.networks.tiny_decoder import TinyDecoder, TinyDecoderConfig
from diafano.stable_diffusion import StableDiffusion

MOST_BYTES = 300_000
"""Of the one that ships."""


def theirs(**config: Any) -> Any:
    from diffusers import AutoencoderTiny

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = AutoencoderTiny(**config).eval()
        for parameter in network.parameters():  # more of everything than a fresh network has
            parameter.data.mul_(1.3).add_(0.01 * torch.randn(parameter.shape))
    return network


class Bend(nn.Module):
    """TAESD's layer 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """As taesd.py has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        conv: Any = lambda: nn.Conv2d(width, width, 3, padding=1)  # noqa: E731
        self.conv = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())


def original_names(width: int = 64) -> list[str]:
    """Of taesd_decoder.safetensors, from a network put together as taesd.py puts its own together."""
    conv: Any = lambda to, **more: nn.Conv2d(4 if to is None else width, to or width, 3, padding=1, **more)  # noqa: E731
    layers: list[nn.Module] = [Bend(), conv(None), nn.ReLU()]
    for _ in range(3):
        layers += [*(Block(width) for _ in range(3)), nn.Upsample(scale_factor=2), conv(width, bias=False)]
    return list(nn.Sequential(*layers, Block(width), conv(3)).state_dict())


@pytest.fixture(scope="module")
def tiny_autoencoder() -> Any:
    return theirs()


@pytest.fixture(scope="module")
def folder(tiny_autoencoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "taesd"
    tiny_autoencoder.save_pretrained(path)
    return path


def test_defaults_are_taesd() -> None:
    decoder = TinyDecoder(TinyDecoderConfig())
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 1_222_531
    assert decoder.factor == 8
    assert list(decoder.decode(torch.zeros(2, 4, 3, 5)).shape) == [2, 3, 24, 40]


@pytest.mark.parametrize("form", ["folder", "diffusers' file", "safetensors", "with a prefix", "pth"])
def test_it_is_diffusers(
    form: str, tiny_autoencoder: Any, folder: Path, tiny_model: StableDiffusion, tmp_path: Path
) -> None:
    latent = 2 * torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1))  # some of it far out
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    original = dict(zip(original_names(), tiny_autoencoder.decoder.state_dict().values(), strict=True))
    path = {"folder": folder, "pth": tmp_path / "taesd_decoder.pth"}.get(form, tmp_path / "taesd_decoder.safetensors")
    if form == "diffusers' file":
        save_file(tensors, path)
    elif form == "safetensors":
        save_file(original, path)
    elif form == "with a prefix":
        save_file({f"decoder.{name}": tensor for name, tensor in original.items()}, path)
    elif form == "pth":
        torch.save(original, path)
    decoder = load_tiny_decoder(path, tiny_model)
    with torch.no_grad():
        expected = tiny_autoencoder.decode(latent).sample
        made = decoder.decode(latent)
    assert float((made - expected).norm() / expected.norm()) <= 1e-5
    assert expected.std() > 0.1


def test_another_scale_of_latents_is_taken_from_the_config(
    folder: Path, tiny_model: StableDiffusion, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    (tmp_path / "diffusion_pytorch_model.safetensors").symlink_to(folder / "diffusion_pytorch_model.safetensors")
    latent = torch.randn(1, 4, 4, 4)
    once, twice = (load_tiny_decoder(path, tiny_model) for path in (folder, tmp_path))
    assert torch.allclose(once.decode(2 * latent), twice.decode(latent))
    (tmp_path / "config.json").write_text(json.dumps({**config, "act_fn": "silu"}))
    with pytest.raises(UserError, match="act_fn 'silu'"):
        load_tiny_decoder(tmp_path, tiny_model)


def test_what_is_saved_has_the_original_names_and_comes_back(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    config = TinyDecoderConfig(width=8, blocks=(3, 3, 3, 1))
    decoder = TinyDecoder(config)
    save_tiny_decoder(decoder, tmp_path / "a.safetensors", "float32")
    assert sorted(load_file(tmp_path / "a.safetensors")) == sorted(original_names())
    again = load_tiny_decoder(tmp_path / "a.safetensors", tiny_model)
    assert again.config == config
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), decoder.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: {}, "holds no tiny decoder"),
        (lambda tensors: {"encoder.conv": torch.ones(1)}, "holds no tiny decoder"),
        (
            lambda tensors: {name: one for name, one in tensors.items() if name != "3.conv.2.bias"},
            "layers.2.conv.2.bias",
        ),
        (lambda tensors: {**tensors, "3.conv.2.bias": torch.ones(5)}, "layers.2.conv.2.bias"),
        (lambda tensors: {**tensors, "3.skip.weight": torch.ones(5)}, "layers.2.skip.weight"),
        (lambda tensors: {"1.weight": torch.ones(64, 16, 3, 3), "2.weight": torch.ones(1)}, "16 channels"),
    ],
)
def test_what_is_none_is_one_sentence(change: Any, complaint: str, tiny_model: StableDiffusion, tmp_path: Path) -> None:
    save_tiny_decoder(TinyDecoder(TinyDecoderConfig(width=8)), tmp_path / "a.safetensors")
    save_file(change(load_file(tmp_path / "a.safetensors")), tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=complaint):
        load_tiny_decoder(tmp_path / "b.safetensors", tiny_model)


def test_the_shipped_one_is_for_the_embedded_model_alone(tiny_model: StableDiffusion) -> None:
    with pytest.raises(UserError, match=r"a 4th of a picture's edge, and tiny draws 4 channels and a 8th"):
        load_tiny_decoder(None, tiny_model)
    assert SHIPPED.stat().st_size <= MOST_BYTES


def test_the_shipped_one_draws_what_the_decoder_draws() -> None:
    model = diafano.load(device="cpu")
    decoder = load_tiny_decoder(None, model)
    assert sum(one.numel() for one in decoder.parameters()) < 0.15 * sum(
        one.numel() for one in model.autoencoder.decoder.parameters()
    )
    seen: list[Tensor] = []
    model.generate("a fox", seed=1, steps=8, sampler="uni_pc", on_step=lambda *step: seen.append(step[3]))
    with torch.inference_mode():
        true = torch.stack([*model.decode(torch.cat(seen))]).clamp(-1, 1)
        made = decoder.decode(torch.cat(seen)).clamp(-1, 1)
    error = (made - true).square().mean(dim=(1, 2, 3))
    assert float(10 * torch.log10(4 / error).min()) > 18
