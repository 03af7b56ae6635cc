"""The diffusers folder: what is saved comes back bit for bit, and what does not belong is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import diafano
from diafano.checkpoints.diffusers import load_folder, save_folder
from diafano.errors import UserError
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer

UNET, VAE, TEXT = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "tiny"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change({name: tensor.clone() for name, tensor in load_file(path).items()}), path)


def assert_same_model(one: StableDiffusion, other: StableDiffusion) -> None:
    for part in ("text_encoder", "unet", "autoencoder"):
        weights, others = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert list(weights) == list(others)
        assert all(torch.equal(weights[name], others[name]) for name in weights), part
        assert getattr(one, part).config == getattr(other, part).config
    assert one.schedule.config == other.schedule.config
    assert one.card == other.card
    assert torch.equal(one.tokenizer(["a red fox", ""]), other.tokenizer(["a red fox", ""]))


def test_saved_and_loaded_is_the_same_bit_for_bit(tiny_model: StableDiffusion, tiny_folder: Path) -> None:
    assert_same_model(diafano.load(tiny_folder, device="cpu"), tiny_model)


def test_shards_and_other_schedules_come_back_too(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    config = ScheduleConfig(kind="cosine", prediction="v", spacing="trailing", zero_terminal_snr=True)
    model = StableDiffusion(**{**vars(tiny_model), "schedule": NoiseSchedule(config)})
    save_folder(model, tmp_path / "shards", max_shard_bytes=10_000)
    assert len(list((tmp_path / "shards/unet").glob("*-of-*.safetensors"))) > 1
    assert_same_model(load_folder(tmp_path / "shards", "cpu"), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_stored_and_read(tiny_model: StableDiffusion, tmp_path: Path, dtype: str) -> None:
    save_folder(tiny_model, tmp_path / "half", dtype)
    half = getattr(torch, dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / UNET).values()} == {half}
    assert json.loads((tmp_path / "half/text_encoder/config.json").read_text())["torch_dtype"] == dtype
    loaded = load_folder(tmp_path / "half", "cpu", dtype)
    assert loaded.dtype == half
    loaded.generate("a fox", steps=1)  # until they run, weights lie as in the file
    assert loaded.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert loaded.autoencoder.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    small = load_folder(tmp_path / "half", "cpu")  # a small model computes in float32, whatever it is stored in
    assert small.dtype == torch.float32
    assert torch.equal(small.unet.conv_in.weight, tiny_model.unet.conv_in.weight.to(half).float())


def test_a_bert_text_encoder_comes_back(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = Tokenizer.from_folder(tmp_path)
    config = BERTConfig(
        vocabulary=8, width=16, mlp_width=32, layers=1, heads=2, positions=80,
        start_token=2, end_token=3, pad_token=0, pooler=True,
    )  # fmt: skip
    model = StableDiffusion(
        **{**vars(tiny_model), "tokenizer": tokenizer, "text_encoder": BERTTextEncoder(config).eval()}
    )
    save_folder(model, tmp_path / "bert")
    loaded = load_folder(tmp_path / "bert", "cpu")
    assert_same_model(loaded, model)
    assert loaded.generate("a red apple", seed=1)[0].tobytes() == model.generate("a red apple", seed=1)[0].tobytes()


def test_names_of_older_libraries_are_read(tiny_model: StableDiffusion, folder: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for name, tensor in weights.items():
            for new, before in old.items():
                name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{before}.")
            renamed[name] = tensor
        assert renamed.keys() != weights.keys()
        return renamed

    change_weights(folder / VAE, older_attention)
    positions = torch.arange(77)[None]
    change_weights(folder / TEXT, lambda weights: {**weights, "text_model.embeddings.position_ids": positions})
    assert_same_model(load_folder(folder, "cpu"), tiny_model)
    # transformers 5 writes no prefix
    change_weights(
        folder / TEXT, lambda weights: {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    )
    assert_same_model(load_folder(folder, "cpu"), tiny_model)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_a_wrong_tensor_is_named_with_its_part(folder: Path, file: str) -> None:
    part = file.split("/")[0]
    weights = load_file(folder / file)
    first = next(iter(weights))
    shown = first.removeprefix("text_model.")
    for changed, said in (
        ({name: tensor for name, tensor in weights.items() if name != first}, "lacks"),
        ({**weights, first: weights[first][..., :-1].contiguous()}, "instead of"),
    ):
        save_file(changed, folder / file)
        with pytest.raises(UserError, match=rf"{part}.*{said}|{part}.*{shown}") as caught:
            load_folder(folder, "cpu")
        assert shown in str(caught.value)
    save_file({**weights, "surplus.weight": torch.zeros(1)}, folder / file)
    with pytest.raises(UserError, match=f"{part}.*surplus.weight"):
        load_folder(folder, "cpu")


def test_a_folder_of_another_program_gets_a_guessed_card(folder: Path) -> None:
    (folder / "diafano.json").unlink()
    change_json(folder / "unet/config.json", sample_size=[8, 16])
    change_json(
        folder / "scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler", use_karras_sigmas=True
    )
    card = load_folder(folder, "cpu").card
    assert (card.name, card.size, card.steps, card.guidance) == ("tiny", (128, 64), 50, 7.5)
    assert (card.sampler, card.schedule) == ("euler", "karras")
    change_json(folder / "scheduler/scheduler_config.json", _class_name="PNDMScheduler", use_karras_sigmas=False)
    card = load_folder(folder, "cpu").card
    assert (card.sampler, card.schedule) == ("pndm", "uniform")


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("model_index.json", {"unet": [None, None]}, "names no unet"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "1 and 2"),
        ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds"),
        ("unet/config.json", {"in_channels": 9}, "conv_in"),
        ("text_encoder/config.json", {"model_type": "t5"}, "t5"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "text_encoder/config.json.*activation"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type"),
        ("diafano.json", {"steps": 0}, "diafano.json.*steps 0"),
        ("diafano.json", {"colour": "red"}, "diafano.json.*colour"),
    ],
)
def test_an_unknown_setting_is_named_with_its_file(folder: Path, file: str, changes: dict[str, Any], said: str) -> None:
    change_json(folder / file, **changes)
    with pytest.raises(UserError, match=said) as caught:
        load_folder(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file", ["model_index.json", "unet/config.json", UNET, TEXT, "scheduler/scheduler_config.json"]
)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UserError, match=Path(file).name):
        load_folder(folder, "cpu")


def test_what_is_no_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        load_folder(tmp_path / "absent")


def test_a_save_that_fails_leaves_nothing(tiny_model: StableDiffusion, tmp_path: Path) -> None:
    unsavable = NoiseSchedule(ScheduleConfig(steps_offset=0))
    model = StableDiffusion(**{**vars(tiny_model), "schedule": unsavable})
    with pytest.raises(UserError, match="steps_offset"):
        save_folder(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_saved_weights_can_be_read_by_whom_the_umask_lets(tiny_folder: Path) -> None:
    config, weights = tiny_folder / "unet/config.json", tiny_folder / "unet/diffusion_pytorch_model.safetensors"
    assert weights.stat().st_mode == config.stat().st_mode
