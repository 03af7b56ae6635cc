"""LoRA files as reports on trackers of other programs describe them, see `test_field_reports`."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file as write_tensors
from torch import Tensor

import diafano
from diafano.checkpoints.addon_files import named_files
from diafano.checkpoints.lora import Loras
from diafano.errors import UserError
from diafano.families.names import UNET, original_modules, unet_table
from diafano.stable_diffusion import StableDiffusion
from helpers import told

Weights = dict[str, Tensor]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
ORIGINAL = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
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
        # Comfy-Org/ComfyUI 14507, bmaltais/kohya_ss 3105: the original's names, as ComfyUI saves and kohya extracts
        (f"diffusion_model.{ORIGINAL}.lora_down.weight", f"diffusion_model.{ORIGINAL}.lora_up.weight"),
        (
            f"lora_unet_{ORIGINAL.replace('.', '_')}.lora_down.weight",
            f"lora_unet_{ORIGINAL.replace('.', '_')}.lora_up.weight",
        ),
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


def test_the_originals_names_of_all_layers(
    tiny_model: StableDiffusion, narrow_model: Callable[[bool], StableDiffusion]
) -> None:
    """They are those of a single file, whatever the UNet's shape."""
    for unet in (tiny_model.unet, narrow_model(False).unet, narrow_model(True).unet):
        modules = [name.removesuffix(".weight") for name in unet.state_dict() if name.endswith(".weight")]
        wanted = unet_table(unet.config, [f"{name}.weight" for name in modules])
        found = original_modules(modules)
        assert {f"{UNET}{found[name]}.weight" for name in modules} == {stored.name for stored in wanted.values()}
        assert all(wanted[f"{name}.weight"].name == f"{UNET}{found[name]}.weight" for name in modules)


def test_comfyuis_names_of_the_text_encoder(model: StableDiffusion, tmp_path: Path) -> None:
    name = "encoder.layers.0.self_attn.q_proj"
    rows, columns = model.text_encoder.get_parameter(f"{name}.weight").shape
    full = f"text_encoders.clip_l.transformer.text_model.{name}"
    write_tensors(
        {f"{full}.lora_down.weight": torch.ones(2, columns), f"{full}.lora_up.weight": torch.ones(rows, 2)},
        tmp_path / "x.safetensors",
    )
    before = model.text_encoder.get_parameter(f"{name}.weight").detach().clone()
    Loras(model).add(tmp_path / "x.safetensors")
    assert torch.allclose(model.text_encoder.get_parameter(f"{name}.weight") - before, torch.tensor(2.0))
