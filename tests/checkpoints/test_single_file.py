"""Original single files: recognised, loaded, written back bit for bit, converted and inspected."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

import diafano
from diafano.checkpoints.recognise import recognise, suspicions
from diafano.checkpoints.single_file import load_file, original_weights, save_file
from diafano.cli import main as cli
from diafano.errors import UserError, collect_notes
from diafano.families.names import ema_name
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import ModelCard, StableDiffusion
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer, train_byte_pair
from helpers import told

V_NAME = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"
UNET_NAME = "model.diffusion_model.input_blocks.0.0.weight"


@dataclass
class Made:
    """A small model of a family, its single file and its tokenizer's folder."""

    model: StableDiffusion
    file: Path
    tokenizer: Path


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    second = request.param == "sd2"
    tokenizer = train_byte_pair(["a red apple", "two bananas on blue"], 560, minimum_frequency=1)
    tokenizer.save(folder / "tokenizer")
    if second:  # it pads with "!", whose id is 0
        config = folder / "tokenizer" / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": "!"}))
        tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    encoder_config = CLIPTextConfig(
        vocabulary=tokenizer.vocabulary_size,
        width=64,
        mlp_width=64,
        layers=2,
        heads=1,
        activation="gelu" if second else "quick_gelu",
        start_token=tokenizer.start_token,
        end_token=tokenizer.end_token,
        pad_token=tokenizer.pad_token,
    )
    unet_config = UNetConfig(
        widths=(32, 64),
        layers=1,
        attention=(True, True),
        heads=(1, 1) if second else (8, 8),
        text_width=64,
        linear_projection=second,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = StableDiffusion(
            tokenizer,
            CLIPTextEncoder(encoder_config).eval(),
            UNet(unet_config).eval(),
            Autoencoder(AutoencoderConfig(widths=(32, 32), layers=1)).eval(),
            NoiseSchedule(
                ScheduleConfig(prediction="v" if second else "noise", final_sigma="first", spacing_said=False)
            ),
            ModelCard(name="model", size=(64, 64), steps=2),
        )
    save_file(model, folder / "model.safetensors")
    return Made(model, folder / "model.safetensors", folder / "tokenizer")


def changed(made: Made, path: Path, *, without: str = "\0", **extra: Tensor) -> Path:
    """The file without names that begin so, without metadata, and with extra tensors (`__` stands for a dot)."""
    kept = {name: tensor for name, tensor in load_tensors(made.file).items() if not name.startswith(without)}
    save_tensors(kept | {name.replace("__", "."): tensor.clone() for name, tensor in extra.items()}, path)
    return path


def load(made: Made, path: Path, **options: object) -> StableDiffusion:
    """Without the notes about what is guessed."""
    with collect_notes():
        return diafano.load(path, device="cpu", tokenizer=made.tokenizer, **options)  # type: ignore[arg-type]


def test_every_part_is_loaded_as_it_was(made: Made) -> None:
    loaded = load(made, made.file)
    for part in ("unet", "autoencoder", "text_encoder"):
        before, after = getattr(made.model, part), getattr(loaded, part)
        assert after.config == before.config and not after.training
        for name, tensor in before.state_dict().items():
            assert torch.equal(after.state_dict()[name], tensor), name
    assert loaded.schedule.config == made.model.schedule.config
    assert (loaded.card.name, loaded.card.size) == ("model", (64, 64))


def test_it_draws_the_same_picture(made: Made) -> None:
    before, after = (model.generate("a red apple", seed=3, steps=2)[0] for model in (made.model, load(made, made.file)))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_round_trip_in_one_format_is_exact(made: Made, dtype: str, tmp_path: Path) -> None:
    save_file(made.model, tmp_path / "first.safetensors", dtype)
    save_file(load(made, tmp_path / "first.safetensors", dtype="float32"), tmp_path / "second.safetensors", dtype)
    first, second = load_tensors(tmp_path / "first.safetensors"), load_tensors(tmp_path / "second.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) and second[name].dtype == first[name].dtype for name in first)
    assert first[UNET_NAME].dtype == getattr(torch, dtype)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_a_ckpt_loads_as_the_safetensors_does(made: Made, tmp_path: Path, wrapped: bool, old: bool) -> None:
    weights = load_tensors(made.file)
    content = {"state_dict": weights, "global_step": 5, "epoch": 1} if wrapped else weights
    torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=not old)
    loaded = load(made, tmp_path / "model.ckpt")
    assert torch.equal(loaded.unet.conv_in.weight, made.model.unet.conv_in.weight)


def test_weights_stay_mapped(made: Made) -> None:
    loaded = load(made, made.file, dtype="float32")
    # all tensors of a mapped file share its storage, or lie in one span of it; copies would be spread over the heap
    size = made.file.stat().st_size
    addresses = [tensor.data_ptr() for tensor in loaded.unet.state_dict().values()]
    assert max(addresses) - min(addresses) < size


def test_a_file_without_tokenizer_says_how_to_get_one(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # what this machine's cache holds is not the point
    with pytest.raises(UserError, match="--tokenizer FOLDER"):
        diafano.load(made.file)
    with pytest.raises(UserError, match="for single files"):
        diafano.load(made.tokenizer.parent, prediction="v")


@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_v_prediction_is_detected_from_metadata_marker_weights_and_by_hand(
    made: Made, tmp_path: Path, prediction: str
) -> None:
    second = recognise(made.file).family == "sd2"
    tensors = load_tensors(made.file)
    said = {"modelspec.prediction_type": "v" if prediction == "v" else "epsilon"}
    save_tensors(tensors, tmp_path / "said.safetensors", metadata=said)
    by_metadata = recognise(tmp_path / "said.safetensors")
    assert (by_metadata.prediction, by_metadata.certain) == (prediction, True) and "metadata" in by_metadata.evidence
    by_hand = recognise(made.file, prediction=prediction)
    assert (by_hand.prediction, by_hand.evidence) == (prediction, "as asked for")
    marked = recognise(changed(made, tmp_path / "marked.safetensors", v_pred=torch.zeros(1)))
    assert marked.prediction == "v" and "v_pred" in marked.evidence
    if second:
        assert V_NAME in tensors
        bias = torch.linspace(-1, 1, 32) if prediction == "v" else torch.full((32,), 0.5)
        save_tensors(tensors | {V_NAME: bias}, tmp_path / "weights.safetensors")
        by_weights = recognise(tmp_path / "weights.safetensors")
        assert (by_weights.prediction, by_weights.certain) == (prediction, False)
        with told("say --prediction"):
            load_file(tmp_path / "weights.safetensors", "cpu", tokenizer=made.tokenizer)
    else:
        assert recognise(changed(made, tmp_path / "plain.safetensors")).prediction == "noise"


def test_a_tokenizer_of_the_other_family_is_noticed(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    shutil.copytree(made.tokenizer, other)
    pad = "!" if recognise(made.file).family == "sd1" else "<|endoftext|>"
    config = other / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token": pad}))
    with told("it belongs to another model"):
        load_file(made.file, "cpu", tokenizer=other)


def test_an_impossible_prediction_is_refused(made: Made) -> None:
    with pytest.raises(UserError, match="prediction 'clean' is not possible"):
        recognise(made.file, prediction="clean")


def test_extra_tensors_are_sorted_and_unknown_ones_reported(made: Made, tmp_path: Path) -> None:
    one = torch.zeros(1)
    path = changed(
        made,
        tmp_path / "extra.safetensors",
        betas=torch.zeros(1000),
        loss__logvar=one,
        model_ema__decay=one,
        first_stage_model__loss__discriminator=one,
        cond_stage_model__transformer__text_model__embeddings__position_ids=torch.arange(77)[None],
        something__else=one,
    )
    found = recognise(path)
    spare = {name for group in found.spare.values() for name in group}
    assert {"betas", "loss.logvar", "model_ema.decay", "first_stage_model.loss.discriminator"} < spare
    assert len(spare) == 5 and found.unknown == ("something.else",) and not found.missing and not found.unexpected
    with collect_notes() as notes:
        load_file(path, "cpu", tokenizer=made.tokenizer)
    assert any("something.else" in note for note in notes)


def test_a_tensor_inside_a_part_that_has_no_place_is_refused(made: Made, tmp_path: Path) -> None:
    path = changed(made, tmp_path / "odd.safetensors", model__diffusion_model__adapter__weight=torch.zeros(1))
    with pytest.raises(UserError, match=r"adapter\.weight.*another kind"):
        load(made, path)


def test_averages_are_taken_when_asked_for(made: Made, tmp_path: Path) -> None:
    averages = {
        ema_name(name): tensor + 1 for name, tensor in load_tensors(made.file).items() if ".diffusion_model." in name
    }
    path = tmp_path / "ema.safetensors"
    save_tensors(load_tensors(made.file) | averages, path)
    plain, averaged = load(made, path), load(made, path, ema=True)
    assert torch.equal(plain.unet.conv_in.weight, made.model.unet.conv_in.weight)
    assert torch.equal(averaged.unet.conv_in.weight, made.model.unet.conv_in.weight + 1)
    assert sum(map(len, recognise(path).spare.values())) == len(averages)
    assert not recognise(path, ema=True).unexpected
    with pytest.raises(UserError, match="no EMA copies"):
        recognise(made.file, ema=True)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("model.diffusion_model.", "no UNet"),
        ("first_stage_model.", "no autoencoder"),
        ("cond_stage_model.", "no text encoder"),
        ("model.diffusion_model.middle_block.1.norm.weight", r"lacks .*middle_block\.1\.norm\.weight"),
        ("model.diffusion_model.out.2.weight", r"lacks .*out\.2\.weight"),
        ("first_stage_model.decoder.mid.block_1", r"lacks .*decoder\.mid\.block_1"),
    ],
)
def test_a_missing_part_is_one_sentence(made: Made, tmp_path: Path, without: str, said: str) -> None:
    path = changed(made, tmp_path / "part.safetensors", without=without)
    with pytest.raises(UserError, match=said) as refused:
        load(made, path)
    assert "part.safetensors" in str(refused.value) and "\n" not in str(refused.value)


def test_a_wrong_shape_is_named(made: Made, tmp_path: Path) -> None:
    path = changed(made, tmp_path / "x.safetensors", first_stage_model__quant_conv__bias=torch.zeros(3))
    with pytest.raises(UserError, match=r"quant_conv\.bias \(3,\) instead of \(8,\)"):
        load(made, path)


@pytest.mark.parametrize(("channels", "kind"), [(8, "editing"), (7, "upscaling"), (5, "depth"), (6, "unknown")])
def test_models_of_other_kinds_are_called_by_them(made: Made, tmp_path: Path, channels: int, kind: str) -> None:
    weight = torch.zeros(32, channels, 3, 3)
    path = changed(made, tmp_path / "x.safetensors", model__diffusion_model__input_blocks__0__0__weight=weight)
    assert recognise(path).kind.startswith(kind)
    with pytest.raises(UserError, match=f"made for {kind}.*give a model for text to image or inpainting"):
        load(made, path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("conditioner.embedders.0.x", "XL"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("double_blocks.0.x", "Flux"),
        ("lora_unet_down.lora_up.weight", "LoRA"),
        ("emb_params", "textual inversion"),
        ("down_blocks.0.resnets.0.conv1.weight", "diffusers folder"),
        ("encoder.down.0.block.0.conv1.weight", "autoencoder alone"),
        ("whatever", "no checkpoint of Stable Diffusion"),
    ],
)
def test_other_models_are_called_by_their_name(tmp_path: Path, name: str, what: str) -> None:
    save_tensors({name: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=what):
        recognise(tmp_path / "x.safetensors")


def test_the_whole_open_clip_loses_its_last_layer(made: Made, tmp_path: Path) -> None:
    if recognise(made.file).family == "sd1":
        pytest.skip("OpenCLIP is Stable Diffusion 2's")
    last = "cond_stage_model.model.transformer.resblocks."
    tensors = load_tensors(made.file)
    layer = {
        name.replace(f"{last}1.", f"{last}2."): t.clone() for name, t in tensors.items() if name.startswith(f"{last}1.")
    }
    head = {f"cond_stage_model.model.{name}": torch.zeros(1) for name in ("text_projection", "logit_scale")}
    save_tensors(tensors | layer | head, tmp_path / "whole.safetensors")
    found = recognise(tmp_path / "whole.safetensors")
    assert not found.unexpected and sum(map(len, found.spare.values())) == len(layer) + 2
    assert len(cast(Any, load(made, tmp_path / "whole.safetensors").text_encoder).encoder.layers) == 2


def test_what_a_file_cannot_say_is_not_written(made: Made, tiny_model: StableDiffusion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot say that the UNet's heads is"):
        save_file(tiny_model, tmp_path / "x.safetensors")
    for target, said in (("x.ckpt", r"not as x\.ckpt"), ("none/x.safetensors", "no folder")):
        with pytest.raises(UserError, match=said):
            save_file(made.model, tmp_path / target)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    (tmp_path / "x.safetensors").write_bytes(b"old")
    monkeypatch.setattr("diafano.checkpoints.single_file.save_tensors", full)
    with pytest.raises(UserError, match="No space left"):
        save_file(made.model, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_bytes() == b"old"


def test_suspicious_values_are_told(made: Made, tmp_path: Path) -> None:
    assert not list(suspicions(recognise(made.file)))
    broken = load_tensors(made.file)[UNET_NAME].clone()
    broken[0, 0, 0, 0] = torch.nan
    path = changed(
        made,
        tmp_path / "x.safetensors",
        model__diffusion_model__input_blocks__0__0__weight=broken,
        alphas_cumprod=torch.linspace(1, 0, 1000),
    )
    told = " ".join(suspicions(recognise(path)))
    assert f"{UNET_NAME} has 1 values that are NaN" in told and "alphas_cumprod" in told


def test_convert_goes_both_ways(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "folder", tmp_path / "back.safetensors"
    to_folder = ["convert", str(made.file), str(folder), "--tokenizer", str(made.tokenizer), "--dtype", "float32"]
    assert cli.run(to_folder) == 0, capsys.readouterr().err
    assert cli.run(["convert", str(folder), str(file), "--dtype", "float32"]) == 0, capsys.readouterr().err
    before, after = load_tensors(made.file), load_tensors(file)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert recognise(file).prediction == made.model.schedule.config.prediction
    assert cli.run(["convert", str(folder), str(file), "--shard", "1"]) == 2
    assert "not split" in capsys.readouterr().err


def test_inspect_reports_a_file(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(made.file)]) == 0
    text = capsys.readouterr().out
    family = recognise(made.file).family
    assert f"Stable Diffusion {family[-1]}, text to image" in text
    assert "metadata" in text and "float32" in text and "Missing: none" in text and "Suspicious: none" in text
    assert f"{sum(tensor.numel() for tensor in made.model.unet.parameters()):,}" in text
    assert f"Used: {len(original_weights(made.model))} of" in text
    assert cli.run(["inspect", str(changed(made, tmp_path / "p.safetensors", without="first_stage"))]) == 0
    text = capsys.readouterr().out
    assert "not in the file" in text and "Cannot be loaded" in text
