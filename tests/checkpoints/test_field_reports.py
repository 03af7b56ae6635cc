"""Files as reports on trackers of other programs describe them: read as they are meant, or refused in a true sentence.

Each case is a report rebuilt in small; which one is said beside it.
"""

import copy
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
from diafano.checkpoints.addon_files import named_files
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.lora import Loras
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


# ---- LoRAs

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = "lora_unet_" + LAYER.replace(".", "_")


@pytest.fixture
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    return copy.deepcopy(tiny_model)


def lora(model: StableDiffusion, down: str, up: str, **more: Tensor) -> Weights:
    rows, columns = model.unet.get_parameter(f"{LAYER}.weight").shape
    generator = torch.Generator().manual_seed(0)
    made = {down: torch.randn(3, columns, generator=generator), up: torch.randn(rows, 3, generator=generator)}
    return made | {f"{FLAT}.{name}": tensor for name, tensor in more.items()}


def change_by(model: StableDiffusion, path: Path) -> Tensor:
    weight = model.unet.get_parameter(f"{LAYER}.weight")
    before = weight.detach().clone()
    Loras(model).add(path)
    return weight.detach() - before


@pytest.mark.parametrize(
    ("down", "up"),
    [
        # huggingface/diffusers 11675, 6382 and 9622: the adapter's name is in the tensors'
        (f"unet.{LAYER}.lora_A.default_0.weight", f"unet.{LAYER}.lora_B.default_0.weight"),
        (f"base_model.model.{LAYER}.lora_A.my_style.weight", f"base_model.model.{LAYER}.lora_B.my_style.weight"),
        # Comfy-Org/ComfyUI 9753 and 4347: PEFT's wrapper within another prefix
        (f"unet.base_model.model.{LAYER}.lora_A.weight", f"unet.base_model.model.{LAYER}.lora_B.weight"),
        (f"unet._orig_mod.{LAYER}.lora_A.weight", f"unet._orig_mod.{LAYER}.lora_B.weight"),
        (f"module.{FLAT}.lora_down.weight", f"module.{FLAT}.lora_up.weight"),
        (f"diffusion_model.{LAYER}.lora_A.weight", f"diffusion_model.{LAYER}.lora_B.weight"),
    ],
)
def test_a_loras_names_in_their_wrappers(model: StableDiffusion, tmp_path: Path, down: str, up: str) -> None:
    tensors = lora(model, down, up)
    write_tensors(tensors, tmp_path / "x.safetensors")
    assert torch.allclose(change_by(model, tmp_path / "x.safetensors"), tensors[up] @ tensors[down], atol=1e-5)


@pytest.mark.parametrize("alpha", [torch.tensor(3), torch.tensor([3.0]), torch.tensor(3.0).bfloat16()])
def test_an_alpha_of_any_form(model: StableDiffusion, tmp_path: Path, alpha: Tensor) -> None:
    tensors = lora(model, f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight", alpha=alpha)
    write_tensors(tensors, tmp_path / "x.safetensors")
    assert change_by(model, tmp_path / "x.safetensors").abs().max() > 0.1


def bad_lora(kind: str, model: StableDiffusion) -> Weights:
    down, up = f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight"
    tensors = lora(model, down, up)
    tensors |= {
        "alpha": {f"{FLAT}.alpha": torch.zeros(0)},
        "nan alpha": {f"{FLAT}.alpha": torch.tensor(torch.nan)},
    }.get(kind, {})
    if kind in ("nan", "inf"):
        tensors[down][0, 0] = float(kind)
    if kind == "int8":
        return {name: (10 * tensor).to(torch.int8) for name, tensor in tensors.items()}
    return {} if kind == "empty" else tensors


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nan", "NaN or infinite, as after a training that went wrong"),  # bmaltais/kohya_ss 1986, 1112
        ("inf", "NaN or infinite"),  # kohya-ss/sd-scripts 1091
        ("alpha", "an alpha .* that is no number"),
        ("nan alpha", "an alpha .* that is no number"),
        ("int8", "whole numbers"),
        ("empty", "holds no tensors"),
    ],
)
def test_a_damaged_lora_is_named_before_it_draws(model: StableDiffusion, tmp_path: Path, kind: str, said: str) -> None:
    write_tensors(bad_lora(kind, model), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said) as caught:
        change_by(model, tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize("kind", ["zeros", "alpha", "rank"])
def test_a_lora_that_changes_nothing_says_so(model: StableDiffusion, tmp_path: Path, kind: str) -> None:
    """ostris/ai-toolkit 975: a file of zeros is easily taken for one that is not applied."""
    down, up = f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight"
    tensors = lora(model, down, up)
    if kind == "zeros":
        tensors[up].zero_()
    elif kind == "alpha":
        tensors[f"{FLAT}.alpha"] = torch.tensor(0.0)
    else:
        tensors = {down: tensors[down][:0], up: tensors[up][:, :0].contiguous()}
    write_tensors(tensors, tmp_path / "x.safetensors")
    with told("x.safetensors changes nothing"):
        assert not change_by(model, tmp_path / "x.safetensors").any()


NAMES = ("a.b.V1.5", "a b", "tail ", "te,st", "立绘", "(x)", "a|b", "it's", "100%", "[br]", "AND", "x BREAK y")
"""asagi4/comfyui-prompt-control 31, InvokeAI 3452 and 3462, SwarmUI 808, ComfyUI-Lora-Manager 441."""


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_of_any_name_is_found_and_recorded(
    tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    tensors = lora(tiny_model, f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight")
    write_tensors(tensors, tmp_path / f"{name}.safetensors")
    model = diafano.load(tiny_folder, loras=tmp_path)
    plain, styled = (model.generate(f"a cat{tag}", seed=1, steps=1)[0] for tag in ("", f" <lora:{name}:0.8>"))
    assert plain.tobytes() != styled.tobytes()
    assert f"{name.replace(',', '')}: " in styled.info["parameters"].rpartition("Lora hashes")[2]


def found(name: str, folder: Path, inside: Callable[[Path], str | None] = lambda path: None) -> str:
    return named_files(name, {}, [folder], "LoRA", "x", inside).relative_to(folder).as_posix()


def test_a_lora_by_its_folder_and_its_ending(tmp_path: Path) -> None:
    """ComfyUI-Lora-Manager 303 and 917, badjeff/comfyui_lora_tag_loader 13: names that two files have."""
    for file in ("char/sample.safetensors", "pose/sample.safetensors", "ink.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert found("char/sample", tmp_path) == "char/sample.safetensors"
    assert found(r"pose\sample.safetensors", tmp_path) == "pose/sample.safetensors"
    assert found("ink.safetensors", tmp_path) == "ink.safetensors"
    with pytest.raises(UserError, match=r"several LoRAs called 'sample'.*or name its folder too"):
        found("sample", tmp_path)
    with pytest.raises(UserError, match=r"no LoRA 'INK' in .*: did you mean ink\?"):
        found("INK", tmp_path)
    with pytest.raises(UserError, match=r"no LoRA 'zzz' in .*: there are ink, sample"):
        found("zzz", tmp_path)


def test_a_lora_by_the_name_that_it_was_made_under(
    tiny_model: StableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    """AUTOMATIC1111 10749 and 14655: its prompts have the name in the metadata; a file's own name goes first."""
    tensors = lora(tiny_model, f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    write_tensors(tensors, tmp_path / "renamed.safetensors", metadata={"ss_output_name": "original"})
    model = diafano.load(tiny_folder, loras=tmp_path)
    with told("no LoRA is called 'original' today, and .*renamed.safetensors was"):
        model.addons.find_lora("original")
    write_tensors(tensors, tmp_path / "original.safetensors")
    model.addons.find_lora("original")


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


def test_a_home_is_found_without_a_shell(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: StableDiffusion
) -> None:
    """huggingface/transformers 33425: "~" is the shell's, and Python has none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "models" / "tiny")
    tensors = lora(tiny_model, f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight")
    write_tensors(tensors, tmp_path / "ink.safetensors")
    model = diafano.load("~/models/tiny", loras={"ink": "~/ink.safetensors"}, vae="~/models/tiny")
    assert model.addons.find_lora("ink").updates
    assert at_home("~/x") == tmp_path / "x"
    for path in ("x/~", "./~x", "/~", "~nobody_of_this_name/x"):
        assert at_home(path) == Path(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    assert at_home("~/x") == Path("~/x")
