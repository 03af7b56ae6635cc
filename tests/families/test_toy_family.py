"""A family that the package has never heard of: its own network, told a pooled text and numbers, its own noise.

It is all that a new family needs, and it draws, is saved, loaded and inspected without one change in the package.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file as load_tensors
from torch import Tensor, nn

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.single_file import save_file
from diafano.cli import main as cli
from diafano.errors import UserError, checked
from diafano.families import names, shapes
from diafano.families.family import Family, FilePart, FolderPart, FoundPart, Prediction, SingleFile
from diafano.families.folder_parts import AUTOENCODER, CLIP
from diafano.families.matching import expected
from diafano.families.table import FAMILIES
from diafano.networks.conditioning import Conditioning
from diafano.request.card import ModelCard
from diafano.stable_diffusion import StableDiffusion

# ---- the family


class ToyConfig(BaseModel):
    in_channels: int = 4
    out_channels: int = 4
    width: int = 16
    told: int = 66  # the pooled text and two numbers


class ToyNetwork(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_in = nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.told = nn.Linear(config.told + 1, config.width)
        self.conv_out = nn.Conv2d(config.width, config.out_channels, 3, padding=1)

    def forward(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None and conditioning.numbers is not None
        told = torch.cat([conditioning.pooled, conditioning.numbers, timestep[:, None]], dim=1)
        return self.conv_out(torch.tanh(self.conv_in(latent) + self.told(told)[..., None, None]))


class FlowConfig(BaseModel):
    last: float = 0.999


class Flow:
    """``x_t = (1 - t) clean + t noise`` is ``(1 - t) x`` with ``sigma = t / (1 - t)``; predicted is noise - clean."""

    def __init__(self, config: FlowConfig) -> None:
        self.config, self.sigma_min, self.sigma_max = config, self.sigma_of(0.001), self.sigma_of(config.last)

    def sigma_of(self, timestep: float) -> float:
        return timestep / (1 - timestep)

    def timestep_of(self, sigma: float) -> float:
        return sigma / (1 + sigma)

    def input_scale(self, sigma: float) -> float:
        return 1 / (1 + sigma)

    def clean(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        return self.input_scale(sigma) * x - self.timestep_of(sigma) * prediction

    def prediction(self, x: Tensor, sigma: float, clean: Tensor) -> Tensor:
        return (self.input_scale(sigma) * x - clean) / self.timestep_of(sigma)

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return torch.lerp(clean, noise, timestep.reshape(-1, 1, 1, 1))

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise - clean

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        return noise / self.input_scale(sigma)

    def finish(self, x: Tensor, sigma: float) -> Tensor:
        return x * self.input_scale(sigma)


def encode(text: str, texts: Any, *, size: tuple[int, int] = (0, 0), **_: Any) -> Conditioning:
    part = texts["text_encoder"]
    ids = part.tokenizer([text])
    tokens = part.encoder(ids)
    return Conditioning(tokens, part.encoder.pooled(tokens, ids), torch.tensor([size]) / 64)


def check(parts: Any) -> None:
    expected(parts.network, ToyNetwork, "network", "Toy")
    expected(parts.process, Flow, "noise process", "Toy")


def kept(kind: Any, config: type[BaseModel], **more: Any) -> FolderPart[Any]:
    def read(json: Any, found: Any) -> BaseModel:
        return checked(config, {key: value for key, value in json.items() if not key.startswith("_")})

    def write(config: BaseModel, said: Any) -> dict[str, Any]:
        return {"_class_name": kind.__name__, **config.model_dump()}

    return FolderPart("toys", kind.__name__, config, kind, read, write, **more)


def find(tensors: Any, path: Path) -> FoundPart | None:
    if "toy.conv_in.weight" not in tensors:
        return None
    width, channels = tensors["toy.conv_in.weight"].shape[:2]
    with torch.device("meta"):
        network = ToyNetwork(ToyConfig(width=width, in_channels=channels))
    return FoundPart(network, network.state_dict(), table(network))


def table(network: nn.Module) -> names.Table:
    return {name: names.Stored(f"toy.{name}") for name in network.state_dict()}


FILE = SingleFile(
    parts={
        "transformer": FilePart("toy network", "toy.", find, table),
        "autoencoder": cast(Any, FAMILIES["sd1"].single_file).parts["autoencoder"],
        "text_encoder": FilePart(
            "text encoder", names.TEXT, shapes.find_text_encoder, lambda text: names.clip_table(text.state_dict())
        ),
    },
    fits=lambda tensors: any(name.startswith("toy.") for name in tensors),
    prediction=lambda *_: Prediction("velocity", "all toys do"),
    process=lambda *_: FlowConfig(),
    size=lambda _: (64, 64),
    tokenizer="nobody/toys",
)
TOY = Family(
    name="toy",
    label="Toy",
    presets=(),
    encode=encode,
    check=check,
    belongs=lambda parts: isinstance(parts.network, ToyNetwork),
    folders={
        "scheduler": (kept(Flow, FlowConfig, file="scheduler_config.json"),),
        "text_encoder": (CLIP,),
        "transformer": (kept(ToyNetwork, ToyConfig, stem="diffusion_pytorch_model"),),
        "vae": (AUTOENCODER,),
    },
    index=lambda parts: {"_class_name": "ToyPipeline"},
    single_file=FILE,
    network="transformer",
    network_label="Toy network",
    trained=lambda flow: f"Trained by flow matching up to {flow.last}",
)

# ---- what it does


@pytest.fixture
def toy(narrow_model: Callable[[bool], StableDiffusion], monkeypatch: pytest.MonkeyPatch) -> StableDiffusion:
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    lent = narrow_model(False)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = ToyNetwork(ToyConfig()).eval()
    card = ModelCard(name="toy", size=(64, 64), steps=3, sampler="euler")
    return StableDiffusion(lent.tokenizer, lent.text_encoder, network, lent.autoencoder, Flow(FlowConfig()), card)


def drawn(model: StableDiffusion, prompt: str = "a red apple", **settings: Any) -> bytes:
    return model.generate(prompt, seed=3, **settings)[0].tobytes()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc", "euler_ancestral"])
def test_it_draws(toy: StableDiffusion, sampler: str) -> None:
    assert toy.family is TOY
    picture = drawn(toy, sampler=sampler)
    assert picture == drawn(toy, sampler=sampler) != drawn(toy, "two bananas", sampler=sampler)
    assert drawn(toy, sampler=sampler, schedule="exponential") != picture


def test_a_perfect_network_brings_the_picture_back(toy: StableDiffusion) -> None:
    clean, noise, flow = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), toy.schedule
    noisy = flow.add_noise(clean, noise, torch.tensor([0.75]))
    sigma = flow.sigma_of(0.75)
    x = noisy / flow.input_scale(sigma)
    torch.testing.assert_close(x, clean + sigma * noise)
    torch.testing.assert_close(flow.clean(x, sigma, flow.target(clean, noise, torch.tensor([0.75]))), clean)
    torch.testing.assert_close(flow.prediction(x, sigma, clean), noise - clean)


def test_a_folder_brings_it_back(toy: StableDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_folder(toy, tmp_path / "toy")
    loaded = diafano.load(tmp_path / "toy", device="cpu")
    assert loaded.family is TOY and loaded.unet.config == toy.unet.config and loaded.card == toy.card
    assert isinstance(loaded.schedule, Flow) and drawn(loaded) == drawn(toy)
    assert cli.run(["inspect", str(tmp_path / "toy")]) == 0
    said = capsys.readouterr().out
    assert "Toy network" in said and "Trained by flow matching up to 0.999" in said
    assert f"transformer {sum(one.numel() for one in toy.unet.parameters()):,}" in said


def test_a_single_file_brings_it_back(toy: StableDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.tokenizer.save(tmp_path / "tokenizer")
    save_file(toy, tmp_path / "toy.safetensors")
    loaded = diafano.load(tmp_path / "toy.safetensors", device="cpu", tokenizer=tmp_path / "tokenizer")
    assert loaded.family is TOY and loaded.schedule.config == toy.schedule.config
    settings: Any = {"steps": 3, "sampler": "euler", "size": (64, 64)}
    assert drawn(loaded, **settings) == drawn(toy, **settings)
    save_file(loaded, tmp_path / "again.safetensors")
    first, again = (load_tensors(tmp_path / name) for name in ("toy.safetensors", "again.safetensors"))
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert cli.run(["inspect", str(tmp_path / "toy.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "Toy, text to image" in said and "Predicts velocity: all toys do" in said and "Missing: none" in said


def test_its_parts_are_no_other_familys(
    toy: StableDiffusion, narrow_model: Callable[[bool], StableDiffusion], tmp_path: Path
) -> None:
    other = narrow_model(False)
    with pytest.raises(UserError, match="the noise process is a NoiseSchedule, and Toy has a Flow"):
        StableDiffusion(**{**vars(toy), "schedule": other.schedule})
    with pytest.raises(UserError, match="the network is a ToyNetwork, and Stable Diffusion 1 has a UNet"):
        StableDiffusion(**{**vars(other), "unet": toy.unet})
    with pytest.raises(UserError, match="for UNets"):
        toy.generate("a red apple", deep_cache=2)


def test_without_its_row_its_files_are_strangers(
    toy: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(toy, tmp_path / "toy")
    monkeypatch.delitem(FAMILIES, "toy")
    with pytest.raises(UserError, match="holds a ToyPipeline: only the kind of Stable Diffusion 1 and 2 is known"):
        diafano.load(tmp_path / "toy")
