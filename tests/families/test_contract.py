"""What every family must do: encode, draw, be saved, loaded and inspected, and refuse a part that is not its own."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.recognise import recognise
from diafano.checkpoints.single_file import save_file
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.families.family import Family, ReadContext, WriteContext
from diafano.families.presets import parameter_counts, shapes
from diafano.families.table import FAMILIES, family_of
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.conditioning import Conditioning
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.tokenizer import Tokenizer

TINY: dict[str, Callable[[Callable[[bool], StableDiffusion]], StableDiffusion]] = {
    "sd1": lambda narrow: narrow(False),
    "sd2": lambda narrow: narrow(True),
}
"""Family -> a model of it with tiny random weights, which a single file can say."""


@pytest.fixture(scope="module", params=FAMILIES)
def model(
    request: pytest.FixtureRequest,
    narrow_model: Callable[[bool], StableDiffusion],
    tmp_path_factory: pytest.TempPathFactory,
) -> StableDiffusion:
    assert request.param in TINY, "give this family a tiny model, and it is held by this contract"
    made = TINY[request.param](narrow_model)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.tokenizer.save(folder)
    if request.param == "sd2":  # it pads with "!", whose id is 0
        config = folder / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "!"}))
    return StableDiffusion(**{**vars(made), "tokenizer": Tokenizer.from_folder(folder)})


@pytest.fixture
def family(model: StableDiffusion) -> Family:
    return model.family


def drawn(model: StableDiffusion, prompt: str = "a red apple") -> bytes:
    return model.generate(prompt, negative="a fox", seed=3, steps=2, guidance=3.0)[0].tobytes()


def assert_same(one: StableDiffusion, other: StableDiffusion) -> None:
    assert one.family is other.family
    networks = [(one.unet, other.unet), (one.autoencoder, other.autoencoder)]
    assert one.texts.keys() == other.texts.keys()
    networks += [(one.texts[name].encoder, other.texts[name].encoder) for name in one.texts]
    for first, second in networks:
        weights, others = first.state_dict(), second.state_dict()
        assert first.config == second.config and weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert one.schedule.config == other.schedule.config
    assert drawn(one) == drawn(other)


def test_a_name_is_a_row(model: StableDiffusion, family: Family) -> None:
    assert FAMILIES[family.name] is family
    assert [one.name for one in FAMILIES.values() if one.belongs(model.parts)] == [family.name]
    assert family_of(model.parts) is family


def test_a_text_is_what_the_network_takes(model: StableDiffusion, family: Family) -> None:
    size = model.card.size
    width, height = (edge // model.autoencoder.factor for edge in size)
    for weighting in (None, "a1111", "comfyui"):
        for negative in (False, True):
            told = family.encode("a (red:1.2) apple", model.texts, weighting=weighting, size=size, negative=negative)
            assert len(told) == 1 and told.tokens.ndim == 3 and bool(torch.isfinite(told.tokens).all())
            latent = torch.randn(1, model.unet.config.in_channels, height, width)
            with torch.no_grad():
                predicted = model.unet(latent, torch.tensor([500.0]), told)
            assert predicted.shape == (1, model.unet.config.out_channels, height, width)
    long = family.encode("a red apple, " * 60, model.texts, weighting="a1111", size=size)
    assert long.tokens.shape[1] > told.tokens.shape[1] and long.tokens.shape[2] == told.tokens.shape[2]
    skipped = family.encode("a red apple", model.texts, clip_skip=1, size=size)
    assert skipped.shapes == told.shapes


def test_the_same_seed_is_the_same_picture(model: StableDiffusion) -> None:
    assert drawn(model) == drawn(model) != drawn(model, "two bananas")


def test_a_folder_brings_it_back(model: StableDiffusion, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "saved")
    loaded = diafano.load(tmp_path / "saved", device="cpu")
    assert_same(loaded, model)
    assert loaded.card == model.card
    save_folder(loaded, tmp_path / "again")
    for path in sorted((tmp_path / "saved").rglob("*")):
        again = tmp_path / "again" / path.relative_to(tmp_path / "saved")
        assert path.is_dir() or path.read_bytes() == again.read_bytes()


def test_a_single_file_brings_it_back(model: StableDiffusion, family: Family, tmp_path: Path) -> None:
    if family.single_file is None:
        pytest.skip("it has no such form")
    model.tokenizer.save(tmp_path / "tokenizer")
    save_file(model, tmp_path / "narrow.safetensors")
    found = recognise(tmp_path / "narrow.safetensors")
    assert found.family == family.name and not (found.missing or found.misshapen or found.unexpected or found.unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = diafano.load(tmp_path / "narrow.safetensors", device="cpu", tokenizer=tmp_path / "tokenizer")
    assert loaded.family is family
    assert all(torch.equal(loaded.unet.state_dict()[name], one) for name, one in model.unet.state_dict().items())
    assert loaded.schedule.config == family.single_file.process({}, found.prediction)
    save_file(loaded, tmp_path / "again.safetensors")
    assert recognise(tmp_path / "again.safetensors").tensors.keys() == found.tensors.keys()


def test_it_is_inspected(
    model: StableDiffusion, family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_folder(model, tmp_path / "saved")
    assert cli.run(["inspect", str(tmp_path / "saved")]) == 0
    said = capsys.readouterr().out
    assert f"{sum(one.numel() for one in model.unet.parameters()):,}" in said
    assert family.trained(model.schedule.config) in said and family.network_label in said
    if family.single_file is not None:
        save_file(model, tmp_path / "saved.safetensors")
        assert cli.run(["inspect", str(tmp_path / "saved.safetensors")]) == 0
        said = capsys.readouterr().out
        assert f"{family.label}, " in said and "Missing: none" in said and "Cannot be loaded" not in said


class Stranger(nn.Linear):
    """A network that is nobody's."""

    def __init__(self, config: object) -> None:
        super().__init__(1, 1)
        self.config = config

    def forward(  # type: ignore[override]  # a network with the weights of a layer
        self, latent: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        return latent


def test_parts_of_another_family_are_refused(model: StableDiffusion, family: Family) -> None:
    wider = Autoencoder(AutoencoderConfig(widths=(32, 32), layers=1, latent_channels=16))
    for changed in (
        replace(model.parts, network=Stranger(model.unet.config)),
        replace(model.parts, process=cast(Any, object())),
        replace(model.parts, autoencoder=wider),
        replace(model.parts, texts={**model.texts, "text_encoder_9": model.texts["text_encoder"]}),
    ):
        with pytest.raises(UserError, match=r"different models|channels") as refused:
            family.check(changed)
        assert "\n" not in str(refused.value)
    family.check(model.parts)


@pytest.mark.parametrize("name", FAMILIES)
def test_presets_are_made_of_declared_parts(name: str) -> None:
    family = FAMILIES[name]
    assert family.presets[0].name == family.name and {one.family for one in family.presets} == {name}
    for preset in family.presets:
        assert all(count > 0 for count in parameter_counts(preset).values())
        assert shapes(preset)[-1].gives == f"(3, {preset.size[1]}, {preset.size[0]})"
        named = {family.network: preset.unet, family.autoencoder: preset.autoencoder, family.process: preset.schedule}
        for folder, config in {**named, **preset.texts}.items():
            (kind,) = (kind for kind in family.folders[folder] if isinstance(config, kind.config_class))
            tokens = tuple(getattr(config, f"{role}_token", 0) for role in ("start", "end", "pad"))
            assert (
                kind.read(kind.write(config, WriteContext(preset.size)), ReadContext("config.json", cast(Any, tokens)))
                == config
            )
