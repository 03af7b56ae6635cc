"""Files as reports on trackers of other programs describe them: read as they are meant, or refused in a true sentence.

Each case is a report rebuilt in small; which one is said beside it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file as write_tensors
from torch import Tensor

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.reading import unwrapped
from diafano.checkpoints.recognise import recognise, suspicions
from diafano.checkpoints.single_file import load_file, save_file
from diafano.checkpoints.textual_inversion import read_embedding
from diafano.checkpoints.vae import find_vae
from diafano.errors import UserError
from diafano.files import at_home
from diafano.stable_diffusion import StableDiffusion
from helpers import told

Weights = dict[str, Tensor]
Change = Callable[[Weights], Weights]
UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, narrow_model: Callable[[bool], StableDiffusion]) -> Path:
    """A folder with a model as a folder, ``model``, and as a file, ``model.safetensors``."""
    folder = tmp_path_factory.mktemp("field")
    save_folder(narrow_model(False), folder / "model")
    save_file(narrow_model(False), folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(narrow: Path, tmp_path: Path) -> Path:
    """A model's folder to spoil."""
    shutil.copytree(narrow / "model", tmp_path / "model")
    return tmp_path / "model"


def prefixed(prefix: str) -> Change:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def renamed(old: str, new: str) -> Change:
    return lambda weights: {name.replace(old, new): tensor for name, tensor in weights.items()}


def of(dtype: torch.dtype) -> Change:
    return lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()}


def with_tensor(name: str, tensor: Tensor) -> Change:
    return lambda weights: {**weights, name: tensor}


def changed(narrow: Path, tmp_path: Path, change: Change) -> Path:
    path = tmp_path / "changed.safetensors"
    weights = change(read_tensors(narrow / "model.safetensors"))
    write_tensors({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


SAME: dict[str, Change] = {
    "karpathy/nanoGPT 325, a compiled module's names": prefixed("_orig_mod."),
    "pytorch/pytorch 101107, a compiled part's names": renamed(UNET, f"{UNET}_orig_mod."),
    "tier4/Diffusion-Planner 230, a distributed module's names": prefixed("module."),
    "the names of what a trainer holds": prefixed("state_dict."),
    "ogkalu2/Merge-Stable-Diffusion-models 29, position ids made fractions": with_tensor(
        f"{TEXT}text_model.embeddings.position_ids", torch.arange(77.0)[None] + 0.3
    ),
    "d8ahazard/sd_dreambooth_extension 6, no text_model": renamed(f"{TEXT}text_model.", TEXT),
    "float64": of(torch.float64),
}


@pytest.mark.parametrize("report", SAME)
def test_a_file_is_the_same_model(narrow: Path, tmp_path: Path, report: str) -> None:
    model = load_file(changed(narrow, tmp_path, SAME[report]), tokenizer=narrow / "model" / "tokenizer")
    wanted = load_file(narrow / "model.safetensors", tokenizer=narrow / "model" / "tokenizer")
    for part in ("unet", "text_encoder", "autoencoder"):
        ours, theirs = getattr(model, part).state_dict(), getattr(wanted, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_short_fractions_are_read_as_they_are(narrow: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """AUTOMATIC1111 16484: files in 8 bits."""
    model = load_file(changed(narrow, tmp_path, of(dtype)), tokenizer=narrow / "model" / "tokenizer")
    stored = read_tensors(narrow / "model.safetensors")[f"{UNET}input_blocks.0.0.weight"]
    assert torch.equal(model.unet.conv_in.weight, stored.to(dtype).float())


@pytest.mark.parametrize("prefix", [UNET, "first_stage_model.", "cond_stage_model."])
def test_whole_numbers_are_no_weights(narrow: Path, tmp_path: Path, prefix: str) -> None:
    """BobJohnson24/ComfyUI-INT8-Fast 48, silveroxides/convert_to_quant 49: read as they stand they draw noise."""

    def quantized(weights: Weights) -> Weights:
        return {
            name: (100 * tensor).to(torch.int8) if name.startswith(prefix) else tensor
            for name, tensor in weights.items()
        }

    with pytest.raises(UserError, match=r"whole numbers \(.* is of int8\) .*it was quantized"):
        load_file(changed(narrow, tmp_path, quantized), tokenizer=narrow / "model" / "tokenizer")


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "vae.", "module."])
def test_an_autoencoder_under_any_wrapper(narrow: Path, tmp_path: Path, prefix: str) -> None:
    first = "first_stage_model."
    weights = read_tensors(narrow / "model.safetensors")
    alone = {prefix + name.removeprefix(first): one for name, one in weights.items() if name.startswith(first)}
    write_tensors(alone, tmp_path / "vae.safetensors")
    found = find_vae(tmp_path / "vae.safetensors").part
    assert torch.equal(found.weights["decoder.conv_in.weight"], weights[f"{first}decoder.conv_in.weight"])


def test_names_that_only_look_wrapped_stay() -> None:
    one = torch.zeros(1)
    for names in (["module.a", "b"], ["a_orig_mod.b"], ["_orig_mod.a", "a"], ["modules.a"], []):
        assert list(unwrapped(dict.fromkeys(names, one))) == names


# ---- folders


@pytest.mark.parametrize(
    "file", ["diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"]
)
def test_a_variant_that_is_all_there_is_is_read(folder: Path, file: str) -> None:
    """genmoai/mochi 119, kohya-ss/sd-scripts 1181."""
    (folder / WEIGHTS).rename(folder / "unet" / file)
    with told(f"holds {file} alone"):
        diafano.load(folder)


def test_of_several_variants_none_is_guessed(folder: Path) -> None:
    for variant in ("bf16", "non_ema"):
        shutil.copy(folder / WEIGHTS, folder / "unet" / f"diffusion_pytorch_model.{variant}.safetensors")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"variants of it, .*bf16.*non_ema.*: rename one"):
        diafano.load(folder)


def test_a_compiled_unets_folder(folder: Path) -> None:
    weights = read_tensors(folder / WEIGHTS)
    write_tensors(prefixed("_orig_mod.")(weights), folder / WEIGHTS)
    assert torch.equal(diafano.load(folder).unet.conv_in.weight, weights["conv_in.weight"])


def test_a_whole_clip_is_a_text_encoder(folder: Path) -> None:
    """CompVis/stable-diffusion 97: the file of CLIP itself has eyes and heads."""
    path = folder / "text_encoder" / "model.safetensors"
    rest = ("logit_scale", "text_projection.weight", "visual_projection.weight", "vision_model.post_layernorm.bias")
    write_tensors({**read_tensors(path), **{name: torch.zeros(2, 2) for name in rest}}, path)
    diafano.load(folder)


def test_a_link_to_nothing_is_called_so(folder: Path) -> None:
    """debpalash/VoiceStudio 1056, huggingface_hub 1388: snapshots whose blobs are gone."""
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("../../blobs/gone")
    with pytest.raises(UserError, match=r"links to \.\./\.\./blobs/gone, which is not there"):
        diafano.load(folder)


def test_a_folder_that_is_no_models_says_what_may_be_meant(folder: Path, narrow: Path, tmp_path: Path) -> None:
    """CompVis/stable-diffusion 394, rupeshs/fastsdcpu 85."""
    cache = tmp_path / "models--owner--name"
    snapshot = cache / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(narrow / "model.safetensors", files)
    (tmp_path / "empty").mkdir()
    for given, advice in (
        (folder / "unet", f"but a part's: give {folder}"),
        (folder / "model_index.json", f"give its folder, {folder}"),
        (cache, f"give {snapshot}"),
        (files, f"give a file in it, such as {files / 'model.safetensors'}"),
        (tmp_path / "empty", "give one that has it"),
    ):
        with pytest.raises(UserError) as caught:
            diafano.load(given)
        assert str(caught.value).endswith(advice) or advice in str(caught.value)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model_index.json", {"safety_checker": [None, None], "requires_safety_checker": False}),
        ("model_index.json", {"_class_name": "StableDiffusionImg2ImgPipeline"}),
        ("text_encoder/config.json", {"torch_dtype": "float16", "dtype": "float16"}),
        ("unet/config.json", {"addition_embed_type": None, "encoder_hid_dim": None}),
    ],
)
def test_what_programs_write_beside_is_no_obstacle(folder: Path, file: str, said: dict[str, Any]) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | said))
    diafano.load(folder)


# ---- words


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64])
def test_a_word_of_any_fractions(tmp_path: Path, dtype: torch.dtype) -> None:
    vectors = torch.arange(8.0).reshape(2, 4).to(dtype)
    write_tensors({"emb_params": vectors}, tmp_path / "word.safetensors")
    assert torch.equal(read_embedding(tmp_path / "word.safetensors")["emb_params"], vectors.float())


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (torch.ones(2, 4, dtype=torch.int8), "holds whole numbers"),
        (torch.full((2, 4), torch.nan), "NaN or infinite"),
        (torch.ones(1, 2, 4), r"of the shape \(1, 2, 4\), which are no vectors"),
    ],
)
def test_what_is_wrong_with_a_word_is_said(tmp_path: Path, vectors: Tensor, said: str) -> None:
    write_tensors({"emb_params": vectors}, tmp_path / "word.safetensors")
    with pytest.raises(UserError, match=said):
        read_embedding(tmp_path / "word.safetensors")


def test_a_file_in_eight_bits_is_inspected(narrow: Path, tmp_path: Path) -> None:
    """huggingface/diffusers, AUTOMATIC1111 16484: torch can ask nothing of such numbers."""
    path = changed(narrow, tmp_path, of(torch.float8_e4m3fn))
    assert not [said for said in suspicions(recognise(path)) if "NaN" in said]


# ---- homes


def test_a_home_is_found_without_a_shell(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface/transformers 33425: "~" is the shell's, and Python has none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "models" / "tiny")
    write_tensors({"emb_params": torch.ones(2, 16)}, tmp_path / "ink.safetensors")
    model = diafano.load("~/models/tiny", embeddings={"ink": "~/ink.safetensors"}, vae="~/models/tiny")
    assert "ink" in model.addons.words
    assert at_home("~/x") == tmp_path / "x"
    for path in ("x/~", "./~x", "/~", "~nobody_of_this_name/x"):
        assert at_home(path) == Path(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    assert at_home("~/x") == Path("~/x")
