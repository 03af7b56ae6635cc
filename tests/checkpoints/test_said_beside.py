"""What a folder says in its configurations, a single file says elsewhere: beside it, in its name, in constants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

import diafano
from diafano.checkpoints.beside import V_IN_NAME, ZERO_IN_NAME
from diafano.checkpoints.controlnet import load_controlnet
from diafano.checkpoints.diffusers import save_folder
from diafano.checkpoints.recognise import recognise
from diafano.checkpoints.said import REFUSED
from diafano.checkpoints.single_file import save_file
from diafano.checkpoints.vae import find_vae
from diafano.errors import UserError
from diafano.families.configs import read_clip_config
from diafano.networks.controlnet import ControlNet
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import StableDiffusion
from helpers import told

YAML = """model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    {line}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        in_channels: 4 # latent
        {unet}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
"""
V = 'parameterization: "v"'
NARROW = Callable[[bool], StableDiffusion]


@pytest.fixture(scope="module")
def weights(narrow_model: NARROW, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Of a model of the first family."""
    path = tmp_path_factory.mktemp("narrow") / "x.safetensors"
    save_file(narrow_model(False), path)
    return load_tensors(path)


def written(weights: dict[str, Tensor], path: Path, line: str | None = None, unet: str = "", **options: Any) -> Path:
    save_tensors(weights | options.get("more", {}), path, options.get("metadata"))
    if line is not None:
        path.with_suffix(".yaml").write_text(YAML.format(line=line, unet=unet))
    return path


@pytest.mark.parametrize(
    ("name", "options", "predicts", "certain"),
    [
        ("x", {}, "noise", True),
        ("x", {"line": V}, "v", True),
        ("x", {"line": "parameterization: eps"}, "noise", True),
        ("x", {"line": "linear_start: 0.00085"}, "noise", True),
        ("x", {"metadata": {"modelspec.prediction_type": "v_prediction"}}, "v", True),
        ("x", {"metadata": {"modelspec.prediction_type": "epsilon"}}, "noise", True),
        ("x", {"metadata": {"ss_v_parameterization": "True"}}, "v", True),
        ("x", {"more": {"v_pred": torch.zeros(0)}}, "v", True),
        ("fluffyrock-vpred", {}, "v", False),
        ("some_v-prediction_model", {}, "v", False),
        ("x-eps-pred", {}, "noise", False),
        # where two differ the surer counts, and is a guess
        ("x-vpred", {"line": "parameterization: eps"}, "noise", False),
        ("x", {"line": V, "metadata": {"modelspec.prediction_type": "epsilon"}}, "v", False),
        (
            "x",
            {"more": {"v_pred": torch.zeros(0)}, "metadata": {"modelspec.prediction_type": "epsilon"}},
            "noise",
            False,
        ),
    ],
)
def test_what_it_predicts(
    weights: dict[str, Tensor], tmp_path: Path, name: str, options: dict[str, Any], predicts: str, certain: bool
) -> None:
    found = recognise(written(weights, tmp_path / f"{name}.safetensors", **options))
    assert (found.prediction, found.certain) == (predicts, certain), found.evidence
    assert recognise(found.path, prediction="v").prediction == "v"


def test_the_evidence_is_no_stronger_than_it_is(weights: dict[str, Tensor], tmp_path: Path) -> None:
    plain = recognise(written(weights, tmp_path / "x.safetensors"))
    assert plain.evidence.startswith("nothing in the file or beside it says otherwise")
    both = recognise(written(weights, tmp_path / "y-vpred.safetensors", line="parameterization: eps"))
    assert "y-vpred.yaml has the parameterization eps, though its name says so" in both.evidence


ZERO = NoiseSchedule(ScheduleConfig(prediction="v", zero_terminal_snr=True)).alphas_cumprod.float()


@pytest.mark.parametrize(
    ("name", "options", "noted"),
    [
        ("x", {"line": f"{V}\n    rescale_betas_zero_snr: True"}, None),
        ("x", {"line": V, "more": {"ztsnr": torch.zeros(0)}}, None),
        ("x", {"line": V, "more": {"alphas_cumprod": ZERO}}, None),
        ("x", {"line": V, "metadata": {"ss_zero_terminal_snr": "True"}}, None),
        ("x-ztsnr", {"line": V}, "taken to be trained to zero terminal SNR"),
        ("x-terminal-snr", {"line": V}, "taken to be trained to zero terminal SNR"),
    ],
)
def test_zero_terminal_snr(
    weights: dict[str, Tensor], tmp_path: Path, name: str, options: dict[str, Any], noted: str | None
) -> None:
    found = recognise(written(weights, tmp_path / f"{name}.safetensors", **options))
    assert found.zero_terminal_snr and found.process.spacing == "trailing"
    doubts = list(found.said.doubts(found.process))
    assert (noted is None and not doubts) or (noted is not None and noted in doubts[0])


@pytest.mark.parametrize(
    ("name", "more"), [("x", {"ztsnr": torch.zeros(0)}), ("x-ztsnr", {}), ("x", {"alphas_cumprod": ZERO})]
)
def test_with_noise_zero_terminal_snr_is_a_mistake(
    weights: dict[str, Tensor], tmp_path: Path, name: str, more: dict[str, Tensor]
) -> None:
    found = recognise(written(weights, tmp_path / f"{name}.safetensors", more=more))
    assert not found.zero_terminal_snr and "left out" in next(found.said.doubts(found.process))


def test_the_schedule_and_the_scale_of_latents(
    weights: dict[str, Tensor], tmp_path: Path, narrow_model: NARROW
) -> None:
    said = (
        "linear_start: 0.001",
        "linear_end: 0.02",
        "timesteps: 500",
        "scale_factor: 0.3",
        "beta_schedule: sqrt_linear",
    )
    line = "\n    ".join(said)
    path = written(weights, tmp_path / "x.safetensors", line=line)
    narrow_model(False).tokenizer.save(tmp_path / "words")
    loaded = diafano.load(path, device="cpu", tokenizer=tmp_path / "words")
    config = loaded.schedule.config
    assert (config.beta_start, config.beta_end, config.steps, config.kind) == (0.001, 0.02, 500, "linear")
    assert loaded.autoencoder.config.latent_scale == 0.3
    path = written(weights, tmp_path / "y.safetensors", more={"scale_factor": torch.tensor(0.25)})
    assert recognise(path).parts["autoencoder"].network.config.latent_scale == 0.25
    assert find_vae(path).says_scale and find_vae(path).part.part.config.latent_scale == 0.25
    path = written(weights, tmp_path / "z.safetensors", more={"alphas_cumprod": torch.linspace(1, 0, 1000)})
    with told("alphas_cumprod of another noise schedule"):
        diafano.load(path, device="cpu", tokenizer=tmp_path / "words")


@pytest.mark.parametrize(
    ("line", "unet", "match"),
    [
        ("parameterization: x0", "", "parameterization 'x0', which cannot be done"),
        ("beta_schedule: cosine", "", "beta_schedule 'cosine'"),
        ("scale_factor: -1", "", r"scale_factor -1\.0"),
        ("scale_factor: many", "", "'many', which is no number"),
        (V, "num_heads: 16", "num_heads = 16"),
    ],
)
def test_what_cannot_be_done_is_named(
    weights: dict[str, Tensor], tmp_path: Path, line: str, unet: str, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        recognise(written(weights, tmp_path / "x.safetensors", line=line, unet=unet))
    with pytest.raises(UserError, match="predicts 'flow'"):
        recognise(written(weights, tmp_path / "y.safetensors", metadata={"modelspec.prediction_type": "flow"}))


@pytest.mark.parametrize("name", REFUSED)
def test_marks_of_another_reading_are_refused(weights: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be done yet"):
        recognise(written(weights, tmp_path / "x.safetensors", more={name: torch.ones(1)}))


def test_names_that_only_look_like_it() -> None:
    assert not any(V_IN_NAME.search(name) for name in ("xvprediction", "love-predator", "v1-5-pruned", "xvpredx"))
    assert not any(ZERO_IN_NAME.search(name) for name in ("snr", "zebra-snrub", "terminal"))


def test_another_autoencoders_scale(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Stable Diffusion XL's has the same shape and another scale."""
    alone = {name: tensor for name, tensor in weights.items() if name.startswith("first_stage_model.")}
    more = {"conditioner.embedders.1.model.ln_final.weight": torch.ones(1)}
    assert find_vae(written(alone, tmp_path / "x.safetensors", more=more)).part.part.config.latent_scale == 0.13025
    said = {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}
    assert find_vae(written(alone, tmp_path / "y.safetensors", metadata=said)).part.part.config.latent_scale == 0.13025
    with told("for Stable Diffusion XL by its name"):
        assert not find_vae(written(alone, tmp_path / "sdxl_vae.safetensors")).says_scale
    assert not find_vae(written(alone, tmp_path / "z.safetensors")).says_scale


# ---- harmless extras, and --allow-partial for models


@pytest.mark.parametrize(
    "extra",
    [
        "first_stage_model.model_ema.decoder.conv_in.weight",
        "model_ema.diffusion_modelout0weight",
        "cond_stage_model.transformer.vision_model.post_layernorm.weight",
        "cond_stage_model.transformer.embeddings.position_ids",
        "cond_stage_model.transformer.text_projection.weight",
        "the text encoder in another spelling",
    ],
)
def test_harmless_extras_refuse_nothing(
    weights: dict[str, Tensor], tmp_path: Path, narrow_model: NARROW, extra: str
) -> None:
    old, new = "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."
    again = {name.replace(old, new): tensor.clone() for name, tensor in weights.items() if name.startswith(old)}
    path = written(weights, tmp_path / "x.safetensors", more=again if "spelling" in extra else {extra: torch.ones(1)})
    narrow_model(False).tokenizer.save(tmp_path / "words")
    loaded = diafano.load(path, device="cpu", tokenizer=tmp_path / "words")
    assert torch.equal(loaded.unet.conv_in.weight, weights["model.diffusion_model.input_blocks.0.0.weight"])


def test_allow_partial_counts_for_models(weights: dict[str, Tensor], tmp_path: Path, narrow_model: NARROW) -> None:
    model = narrow_model(False)
    model.tokenizer.save(tmp_path / "words")
    odd = written(weights, tmp_path / "x.safetensors", more={"model.diffusion_model.odd.weight": torch.ones(1)})
    save_folder(model, tmp_path / "folder")
    file = tmp_path / "folder/unet/diffusion_pytorch_model.safetensors"
    save_tensors(load_tensors(file) | {"odd.weight": torch.ones(1)}, file)
    for source, options in ((odd, {"tokenizer": tmp_path / "words"}), (tmp_path / "folder", {})):
        with pytest.raises(UserError, match=r"odd\.weight.*--allow-partial"):
            diafano.load(source, device="cpu", **options)  # type: ignore[arg-type]
        with told(r"odd\.weight"):
            diafano.load(source, device="cpu", allow_partial=True, **options)  # type: ignore[arg-type]


# ---- ControlNets


def control(model: StableDiffusion) -> ControlNet:
    torch.manual_seed(4)
    made = ControlNet.copied_from(model.unet, (8, 12))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def test_a_controlnet_of_differences_is_added_to_the_models_unet(tmp_path: Path, narrow_model: NARROW) -> None:
    model = narrow_model(False)
    network, own = control(model), model.unet.state_dict()
    whole = network.state_dict()
    differences = {name: one - own[name] if name in own else one for name, one in whole.items()}
    save_tensors(differences | {"difference": torch.zeros(1)}, tmp_path / "x.safetensors")
    loaded = load_controlnet(tmp_path / "x.safetensors", model).state_dict()
    assert all(torch.allclose(loaded[name], one, atol=1e-6) for name, one in whole.items())


@pytest.mark.parametrize(
    ("name", "yaml", "mark", "match"),
    [
        ("x", "model:\n  params:\n    global_average_pooling: True\n", None, "has global_average_pooling"),
        ("control_v11e_sd15_shuffle", None, None, "shuffled pictures by its name"),
        ("x", None, "lora_controlnet", "a control-LoRA"),
        ("x", None, "task_embedding", "a ControlNet union"),
        ("x", None, "add_embedding.linear_1.weight", "for Stable Diffusion XL"),
    ],
)
def test_a_controlnet_of_another_kind_is_named(
    tmp_path: Path, narrow_model: NARROW, name: str, yaml: str | None, mark: str | None, match: str
) -> None:
    model = narrow_model(False)
    more = {} if mark is None else {mark: torch.zeros(1)}
    save_tensors(control(model).state_dict() | more, tmp_path / f"{name}.safetensors")
    if yaml is not None:
        (tmp_path / f"{name}.yaml").write_text(yaml)
    with pytest.raises(UserError, match=match):
        load_controlnet(tmp_path / f"{name}.safetensors", model)


@pytest.mark.parametrize("said", [{"use_attention_mask": True}, {"quantization_config": {"load_in_4bit": True}}])
def test_a_text_encoder_that_is_read_otherwise_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(said))):
        read_clip_config(said, (0, 0, 0), "config.json")
