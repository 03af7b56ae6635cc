"""LoRAs that a prompt names: for one picture, recorded in it, and drawn again from it."""

import copy
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diafano
from diafano.checkpoints.lora import LoraFiles, Loras
from diafano.cli import main as cli
from diafano.errors import UserError
from diafano.pictures.files import read_parameters, save_picture
from diafano.stable_diffusion import StableDiffusion
from helpers import told

QUERY = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "encoder_layers_0_self_attn_v_proj"


def write_lora(path: Path, *, seed: int = 0, size: float = 2.0, unet: bool = True, text: bool = True) -> Path:
    """A LoRA for the tiny model that shows."""
    generator = torch.Generator().manual_seed(seed)
    places = [("lora_unet_" + QUERY, 8)] * unet + [("lora_te_text_model_" + TEXT, 16)] * text
    places += [("lora_unet_conv_out", 0)] * unet
    tensors = {}
    for place, width in places:
        down, up = ((2, width), (width, 2)) if width else ((2, 8, 3, 3), (4, 2, 1, 1))
        tensors[f"{place}.lora_down.weight"] = size * torch.randn(down, generator=generator)
        tensors[f"{place}.lora_up.weight"] = torch.randn(up, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"ss_training_comment": f"{seed}"})
    return path


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    write_lora(folder / "style.safetensors")
    write_lora(folder / "inner/detail.safetensors", seed=1)
    return folder


@pytest.fixture
def model(tiny_model: StableDiffusion, loras: Path) -> StableDiffusion:
    model = copy.deepcopy(tiny_model)
    model.addons.find_lora = LoraFiles(model, (loras,))
    return model


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def settings(picture: Image.Image | Path) -> str:
    return str(read_parameters(picture) if isinstance(picture, Path) else picture.info["parameters"])


def difference(one: Image.Image | Path, other: Image.Image | Path) -> float:
    first, second = (
        np.asarray(Image.open(one) if isinstance(one, Path) else one).astype(float) for one in (one, other)
    )
    return float(np.abs(first - second).max())


def weights(model: StableDiffusion) -> Iterator[tuple[torch.Tensor, int]]:
    for part in (model.unet, model.text_encoder):
        for parameter in part.parameters():
            yield parameter, parameter.data_ptr()


def test_a_lora_of_the_prompt_is_for_one_picture(model: StableDiffusion) -> None:
    before = [(tensor.clone(), place) for tensor, place in weights(model)]
    plain = model.generate("a fox", seed=1)[0]
    styled = model.generate("a fox<lora:style:0.8>", seed=1)[0]
    assert difference(plain, styled) > 20
    for (tensor, place), (old, old_place) in zip(weights(model), before, strict=True):
        assert torch.equal(tensor, old) and place == old_place  # the very tensors
    assert difference(model.generate("a fox", seed=1)[0], plain) == 0
    assert difference(model.generate("a fox<lora:style:0>", seed=1)[0], plain) == 0


def test_the_weights_come_back_after_a_failure_and_can_be_trained(model: StableDiffusion) -> None:
    before = [(tensor.clone(), place) for tensor, place in weights(model)]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate("a fox <lora:style:0.8>", on_step=stop)
    assert all(torch.equal(now, old) for (now, _), (old, _) in zip(weights(model), before, strict=True))
    model.text_encoder(torch.zeros(1, 5, dtype=torch.int64)).sum().backward()


def test_a_merged_lora_is_the_one_of_the_prompt(model: StableDiffusion, loras: Path) -> None:
    styled = model.generate("a fox <lora:style:0.5:0.75> <lora:detail:-1>", seed=1)[0]
    kept = Loras(model)
    kept.add(loras / "style.safetensors", 0.75, text=0.5)
    kept.add(loras / "inner/detail.safetensors", -1)
    merged = model.generate("a fox", seed=1)[0]
    assert difference(styled, merged) <= 1
    assert settings(merged) == settings(styled)  # so it can be drawn again
    kept.clear()
    assert "lora" not in settings(model.generate("a fox", seed=1)[0]).lower()


def test_text_encoder_and_unet_have_strengths_of_their_own(model: StableDiffusion, loras: Path) -> None:
    write_lora(loras / "text.safetensors", unet=False)
    write_lora(loras / "unet.safetensors", text=False)
    plain = model.generate("a fox", seed=1)[0]
    assert difference(model.generate("a fox <lora:text:0:1>", seed=1)[0], plain) == 0
    assert difference(model.generate("a fox <lora:unet:1:0>", seed=1)[0], plain) == 0
    both = model.generate("a fox <lora:style:te=0.5:unet=0.25>", seed=1)[0]
    assert difference(both, model.generate("a fox <lora:style:0.5:0.25>", seed=1)[0]) == 0
    assert difference(both, model.generate("a fox <lora:style:0.25:0.5>", seed=1)[0]) > 0
    twice = model.generate("a fox <lora:style:0.25><lora:style:0.25:0>", seed=1)[0]
    assert difference(twice, both) == 0  # they add up


def test_a_name_that_is_not_there_is_one_sentence_with_those_most_like_it(
    model: StableDiffusion, tiny_model: StableDiffusion, loras: Path
) -> None:
    with pytest.raises(UserError, match=r"no LoRA 'stile' in .*: did you mean style\?"):
        model.generate("a fox <lora:stile:1>")
    with pytest.raises(UserError, match=r"--lora-dir FOLDER"):
        tiny_model.generate("a fox <lora:style:1>")
    write_lora(loras / "again/style.safetensors")
    with pytest.raises(UserError, match="several LoRAs called 'style'"):
        model.generate("a fox <lora:style:1>")
    with told(r"<hypernet:x:1>, only <lora:...> is known"):
        model.generate("a fox <hypernet:x:1>", steps=1)


def test_a_name_never_leads_out_of_the_folder(model: StableDiffusion, loras: Path) -> None:
    write_lora(loras.parent / "private.safetensors")
    with pytest.raises(UserError, match=r"no LoRA '\.\./private'"):
        model.generate("a fox <lora:../private:1>")


def test_load_takes_folders_and_files_by_name(tiny_folder: Path, loras: Path, model: StableDiffusion) -> None:
    styled = model.generate("a fox <lora:style:0.8>", seed=1)[0]
    for given in (
        loras,
        str(loras),
        {"style": loras / "style.safetensors"},
        [loras, {"x": loras / "style.safetensors"}],
    ):
        loaded = diafano.load(tiny_folder, device="cpu", dtype="float32", loras=cast(Any, given))
        assert difference(loaded.generate("a fox <lora:style:0.8>", seed=1)[0], styled) == 0
    assert difference(loaded.generate("a fox <lora:x:0.8>", seed=1)[0], styled) == 0
    with pytest.raises(UserError, match="no folder"):
        diafano.load(tiny_folder, device="cpu", loras=loras / "absent")
    with pytest.raises(UserError, match="no file"):
        diafano.load(tiny_folder, device="cpu", loras={"x": loras / "absent"})


def test_a_file_that_changes_is_read_again(model: StableDiffusion, loras: Path) -> None:
    one = model.generate("a fox <lora:style:1>", seed=1)[0]
    write_lora(loras / "style.safetensors", seed=9)
    assert difference(model.generate("a fox <lora:style:1>", seed=1)[0], one) > 0


def test_the_hash_is_of_the_tensors_alone(model: StableDiffusion, loras: Path) -> None:
    """A1111's and kohya's: notes in the header do not change it."""
    content = (loras / "style.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["__metadata__"]
    expected = hashlib.sha256(content[8 + length :]).hexdigest()[:12]
    text = settings(model.generate("a fox <lora:style:0.8>", seed=1)[0])
    assert text.startswith("a fox <lora:style:0.8>\n")
    assert f'Lora hashes: "style: {expected}"' in text


# ---- the command


def test_the_command_records_loras_given_either_way(tiny_folder: Path, loras: Path, tmp_path: Path) -> None:
    command = ["generate", "--model", tiny_folder, "--seed", 1, "--output"]
    assert run(*command, tmp_path / "tag.png", "a fox <lora:style:0.8>", "--lora-dir", loras) == 0
    assert run(*command, tmp_path / "file.png", "a fox", "--lora", f"{loras}/style.safetensors:0.8") == 0
    assert settings(tmp_path / "tag.png") == settings(tmp_path / "file.png")
    assert difference(tmp_path / "tag.png", tmp_path / "file.png") == 0
    # A file alone is taken at the strength that the prompt says.
    said = [tmp_path / "said.png", "a fox <lora:style:0.8>", "--lora", loras / "style.safetensors"]
    assert run(*command, *said) == 0
    assert difference(tmp_path / "tag.png", tmp_path / "said.png") == 0


def test_from_applies_them_again(
    model: StableDiffusion, tiny_folder: Path, loras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    save_picture(model.generate("a fox <lora:style:0.8> <lora:detail:0.5>", seed=1)[0], first)
    command = ["generate", "--from", first, "--model", tiny_folder, "--output", again]
    assert run(*command, "--lora-dir", loras) == 0
    assert capsys.readouterr().err == ""
    assert difference(first, again) == 0 and settings(first) == settings(again)
    files = ["--lora", loras / "style.safetensors", "--lora", loras / "inner/detail.safetensors"]
    assert run(*command, *files) == 0
    assert difference(first, again) == 0
    # another strength overrides
    assert run(*command, "--lora-dir", loras, "--lora", f"{loras}/style.safetensors:0.1") == 0
    assert settings(again).startswith("a fox  <lora:detail:0.5> <lora:style:0.1>\n")


def test_from_says_which_are_lost(
    model: StableDiffusion, tiny_folder: Path, loras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    save_picture(model.generate("a fox <lora:style:0.8>", seed=1)[0], first)
    command = ["generate", "--from", first, "--model", tiny_folder, "--output", again]
    assert run(*command) == 0
    assert "left out: <lora:style:0.8> (the LoRA 'style'" in capsys.readouterr().err
    assert settings(again).startswith("a fox \nSteps")
    write_lora(loras / "style.safetensors", seed=5)
    assert run(*command, "--lora-dir", loras) == 0
    assert "<lora:style:0.8> (has the hash " in capsys.readouterr().err
    assert "Lora hashes" not in settings(again)
    assert run(*command, "--lora", loras / "style.safetensors") == 0  # who names the file means it
    assert "it is another one" in capsys.readouterr().err
    assert "<lora:style:0.8>" in settings(again)


def test_tags_are_no_tokens(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tokens", "two bananas <lora:style:0.8>", "--model", tiny_folder) == 0
    assert capsys.readouterr().out == "  chunk 1, 2 of 75 tokens: two bananas \n".replace(" \n", "\n")


def test_complaint_lora_keys_dropped_in_silence_by_the_command(
    tiny_folder: Path, loras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"lora_unet_no_such_layer.lora_up.weight": torch.ones(2, 2)}
    from safetensors.torch import load_file

    save_file({**load_file(loras / "style.safetensors"), **odd}, loras / "odd.safetensors")
    command = ["generate", "a fox <lora:odd:1>", "--model", tiny_folder, "--lora-dir", loras, "--output"]
    assert run(*command, tmp_path / "a.png") == 2
    said = capsys.readouterr().err
    assert "no_such_layer" in said and said.count("\n") == 1 and not (tmp_path / "a.png").exists()
    assert run(*command, tmp_path / "a.png", "--allow-partial") == 0
    assert "no_such_layer" in capsys.readouterr().err
