"""Another autoencoder in the place of a model's own, from every form that one is kept in."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import diafano
from diafano.checkpoints.parts import write_part
from diafano.checkpoints.single_file import save_file as save_single_file
from diafano.checkpoints.vae import with_autoencoder
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.families import names as table
from diafano.families.folder_parts import AUTOENCODER
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.pictures.files import read_parameters, read_picture
from diafano.stable_diffusion import StableDiffusion
from helpers import told

SCALE = 0.6


@pytest.fixture
def model(narrow_model: Callable[[], StableDiffusion]) -> StableDiffusion:
    """Its latents have a scale of their own."""
    model = narrow_model()
    model.autoencoder.config = model.autoencoder.config.model_copy(update={"latent_scale": SCALE})
    return model


@pytest.fixture
def other(model: StableDiffusion) -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(model.autoencoder.config).eval()


def original(autoencoder: Autoencoder) -> dict[str, Tensor]:
    weights = autoencoder.state_dict()
    return table.to_original(weights, table.autoencoder_table(autoencoder.config, weights))


def write(form: str, autoencoder: Autoencoder, path: Path) -> Path:
    if form in ("folder", "model's folder", "folder without a scale"):
        folder = path / "vae" if form == "model's folder" else path
        write_part(autoencoder, folder, AUTOENCODER)
        if form == "folder without a scale":
            settings = json.loads((folder / "config.json").read_text())
            del settings["scaling_factor"]
            (folder / "config.json").write_text(json.dumps(settings))
        return path
    tensors = original(autoencoder)
    if form == "checkpoint":
        tensors |= {"model.diffusion_model.x": torch.zeros(1), "first_stage_model.loss.logvar": torch.zeros(1)}
    else:
        tensors = {name.removeprefix(table.AUTOENCODER): tensor.contiguous() for name, tensor in tensors.items()}
        tensors |= {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(())}
    if form == "pickle":
        torch.save({"state_dict": tensors, "epoch": 3}, path.with_suffix(".ckpt"))
        return path.with_suffix(".ckpt")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


FORMS = ["folder", "model's folder", "folder without a scale", "file", "checkpoint", "pickle"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_decodes_the_same_and_the_scale_stays_right(
    model: StableDiffusion, other: Autoencoder, tmp_path: Path, form: str
) -> None:
    changed = with_autoencoder(model, write(form, other, tmp_path / "kl"))
    assert changed.autoencoder.config.latent_scale == SCALE
    latent = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(changed.autoencoder.decode(latent), other.decode(latent))
    assert changed.unet is model.unet and changed.text_encoder is model.text_encoder
    assert changed.autoencoder is not model.autoencoder
    one, plain = (np.asarray(each.generate("a fox", seed=1)[0]).astype(int) for each in (changed, model))
    assert np.abs(one - plain).max() > 10


def test_it_records_name_and_hash(model: StableDiffusion, other: Autoencoder, tmp_path: Path) -> None:
    for form, name in (("folder", "kl"), ("model's folder", "kl"), ("file", "kl.safetensors")):
        path = write(form, other, tmp_path / form / "kl" if form != "file" else tmp_path / "kl")
        text = with_autoencoder(model, path).generate("a fox", seed=1, steps=1)[0].info["parameters"]
        assert f", VAE: {name}, " in text and "Model: narrow, VAE hash: " in text
    assert "VAE" not in model.generate("a fox", seed=1, steps=1)[0].info["parameters"]


def test_what_does_not_fit_is_one_sentence(model: StableDiffusion, other: Autoencoder, tmp_path: Path) -> None:
    good = load_file(write("file", other, tmp_path / "kl"))
    path = tmp_path / "bad.safetensors"

    def said(tensors: dict[str, Tensor]) -> str:
        save_file(tensors, path)
        with pytest.raises(UserError) as error:
            with_autoencoder(model, path)
        return str(error.value)

    assert "lacks first_stage_model.decoder.norm_out.weight" in said(
        {name: tensor for name, tensor in good.items() if name != "decoder.norm_out.weight"}
    )
    assert "wrong shape" in said(good | {"decoder.norm_out.weight": torch.ones(3)})
    assert "holds no autoencoder" in said({"x": torch.ones(1)})
    assert "diffusers' form" in said({"encoder.down_blocks.0.x": torch.ones(1)})
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="no autoencoder"):
            with_autoencoder(model, absent)
    wide = Autoencoder(AutoencoderConfig(widths=(32, 32), layers=1, latent_channels=8))
    with pytest.raises(UserError, match=r"8 channels .* belongs to a model of another kind"):
        with_autoencoder(model, write("folder", wide, tmp_path / "wide"))
    flat = Autoencoder(AutoencoderConfig(widths=(32, 32, 32), layers=1))
    with pytest.raises(UserError, match="another kind"):
        with_autoencoder(model, write("file", flat, tmp_path / "flat"))


def test_complaint_keys_that_match_nothing_are_dropped_in_silence(
    model: StableDiffusion, other: Autoencoder, tmp_path: Path
) -> None:
    path = write("file", other, tmp_path / "kl")
    save_file(load_file(path) | {"decoder.extra.weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"decoder\.extra\.weight.*--allow-partial"):
        with_autoencoder(model, path)
    with told(r"decoder\.extra\.weight"):
        with_autoencoder(model, path, allow_partial=True)


def test_another_scale_is_taken_and_told(model: StableDiffusion, other: Autoencoder, tmp_path: Path) -> None:
    other.config = other.config.model_copy(update={"latent_scale": 0.13025})
    path = write("folder", other, tmp_path / "kl")
    with told(r"multiplies its latents by 0\.13025"):
        assert with_autoencoder(model, path).autoencoder.config.latent_scale == 0.13025


def test_a_single_file_without_one_draws_with_it(narrow_model: Callable[[], StableDiffusion], tmp_path: Path) -> None:
    whole = narrow_model()
    whole.tokenizer.save(tmp_path / "tokenizer")
    save_single_file(whole, tmp_path / "whole.safetensors")
    tensors = load_file(tmp_path / "whole.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(table.AUTOENCODER)}
    save_file(rest, tmp_path / "part.safetensors")
    vae = write("file", whole.autoencoder, tmp_path / "kl")
    options: dict[str, Any] = {"device": "cpu", "tokenizer": tmp_path / "tokenizer"}
    with pytest.raises(UserError, match=r"holds no autoencoder .* or one with --vae"):
        diafano.load(tmp_path / "part.safetensors", **options)
    completed = diafano.load(tmp_path / "part.safetensors", vae=vae, **options)
    settings: dict[str, Any] = {"seed": 1, "steps": 1, "size": (64, 64)}  # a file alone means 512x512
    with told("64x64 is far from 512x512"):
        expected = diafano.load(tmp_path / "whole.safetensors", **options).generate("a fox", **settings)[0]
        assert completed.generate("a fox", **settings)[0].tobytes() == expected.tobytes()


def test_the_command_records_and_draws_again(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = diafano.load(tiny_folder, device="cpu").autoencoder
    other = copy.deepcopy(own)
    torch.nn.init.normal_(other.decoder.conv_out.weight, generator=torch.Generator().manual_seed(1))
    vae = write("folder", other, tmp_path / "kl")
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    command = ["generate", "--model", tiny_folder, "--output"]
    assert cli.run([str(one) for one in (*command, first, "a fox", "--seed", 1, "--vae", vae)]) == 0
    assert ", VAE: kl, " in (read_parameters(first) or "")
    capsys.readouterr()
    renamed = shutil.move(vae, tmp_path / "renamed")
    assert cli.run([str(one) for one in (*command, again, "--from", first, "--vae", renamed)]) == 0
    assert capsys.readouterr().err == ""
    one, other_one = (np.asarray(read_picture(path)) for path in (first, again))
    assert np.array_equal(one, other_one)
    assert cli.run([str(one) for one in (*command, again, "--from", first)]) == 0
    assert "left out: VAE: kl (give that autoencoder with --vae)" in capsys.readouterr().err
