"""The same picture as diffusers' StableDiffusionPipeline draws, and folders that open in both."""

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import diafano
from diafano.checkpoints.diffusers import save_folder
from diafano.errors import UserError
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.noise.schedule import NoiseSchedule, ScheduleConfig
from diafano.stable_diffusion import ModelCard, StableDiffusion
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.tokenizer import Tokenizer, train_byte_pair

CAPTIONS = ["a red apple on a blue background", "two red apples", "a blue fox on red", "a fox left of an apple"]
V1 = ScheduleConfig(final_sigma="first")  # leading spacing, steps_offset 1, set_alpha_to_one False
# Not "linspace": diffusers' DDIM steps by 1000 // steps whatever the spacing, and so past its own next timestep.
SCHEDULES = {
    "v1": V1,
    "v1, v": V1.model_copy(update={"prediction": "v"}),
    "noise, clean end": ScheduleConfig(),
    "cosine, trailing, v": ScheduleConfig(kind="cosine", spacing="trailing", prediction="v"),
    "linear, trailing": ScheduleConfig(kind="linear", beta_start=1e-4, beta_end=0.02, spacing="trailing"),
    "zero terminal SNR, v": ScheduleConfig(zero_terminal_snr=True, spacing="trailing", prediction="v"),
}


def shaken(module: torch.nn.Module) -> Any:
    """Fresh modules have zero biases, unit norms and hardly listen to the text: nothing that a test would miss."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * max(parameter.shape[-1], 10) ** -0.5)
            if "attn2.to_" in name:
                parameter.mul_(3.0)
    return module.eval()


def tokenizer() -> Tokenizer:
    return train_byte_pair(CAPTIONS, 560)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    """64x64 pictures, latent (4, 16, 16), two levels, attention at both, a size of heads for each."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = tokenizer()
        encoder = CLIPTextConfig(
            vocabulary=tokens.vocabulary_size, width=32, mlp_width=64, layers=2, heads=2,
            start_token=tokens.start_token, end_token=tokens.end_token, pad_token=tokens.pad_token,
        )  # fmt: skip
        return StableDiffusion(
            tokens,
            shaken(CLIPTextEncoder(encoder)),
            shaken(UNet(UNetConfig(widths=(32, 64), layers=1, attention=(True, True), heads=(2, 4), text_width=32))),
            shaken(Autoencoder(AutoencoderConfig(widths=(16, 32, 32), layers=1, groups=8, latent_scale=0.7))),
            NoiseSchedule(V1),
            ModelCard(name="tiny", size=(64, 64), sampler="ddim"),
        )


def pipeline(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these libraries say about their own future
        opened = diffusers.StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    opened.set_progress_bar_config(disable=True)
    return opened


def theirs(
    opened: Any, prompt: str, negative: str, *, seed: int, steps: int, guidance: float, **more: Any
) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generator = torch.Generator("cpu").manual_seed(seed)
        return opened(
            prompt,
            negative_prompt=negative,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
            **more,
        ).images[0]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Decibels; infinite for equal pictures."""
    error = float(((np.asarray(one).astype(float) - np.asarray(other)) ** 2).mean())
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_picture_is_diffusers_picture(model: StableDiffusion, tmp_path: Path, name: str) -> None:
    ours = StableDiffusion(**{**vars(model), "schedule": NoiseSchedule(SCHEDULES[name])})
    save_folder(ours, tmp_path / "model")
    opened = pipeline(tmp_path / "model")
    assert isinstance(opened.scheduler, diffusers.DDIMScheduler)
    picture = theirs(opened, "a red apple", "a blue fox", seed=7, steps=20, guidance=7.5)
    drawn = ours.generate("a red apple", negative="a blue fox", seed=7, steps=20, guidance=7.5)[0]
    assert np.asarray(drawn).std() > 20  # it is a picture, not a plain colour in which all errors vanish
    # At zero SNR our last alpha is 2^-24, theirs 0.
    assert psnr(drawn, picture) >= (60.0 if ours.schedule.config.zero_terminal_snr else 70.0)
    assert psnr(ours.generate("two", seed=7, steps=20, guidance=7.5)[0], picture) < 40.0  # and it hears its prompt


def test_fifty_steps_without_guidance_and_another_size(model: StableDiffusion, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "model")
    opened = pipeline(tmp_path / "model")
    picture = theirs(opened, "a blue fox", "", seed=1, steps=50, guidance=1.0)
    assert psnr(model.generate("a blue fox", seed=1, steps=50, guidance=1.0)[0], picture) >= 70.0
    wide = opened(
        "a fox", width=96, height=64, num_inference_steps=3, generator=torch.Generator("cpu").manual_seed(2)
    ).images[0]
    assert psnr(model.generate("a fox", size=(96, 64), steps=3, seed=2)[0], wide) >= 70.0


@pytest.mark.parametrize("name", ["v1", "v1, v"])
def test_rescaled_guidance_is_diffusers(model: StableDiffusion, tmp_path: Path, name: str) -> None:
    ours = StableDiffusion(**{**vars(model), "schedule": NoiseSchedule(SCHEDULES[name])})
    save_folder(ours, tmp_path / "model")
    said: dict[str, Any] = {"seed": 7, "steps": 12, "guidance": 12.0, "guidance_rescale": 0.7}
    picture = theirs(pipeline(tmp_path / "model"), "a red apple", "a blue fox", **said)
    drawn = ours.generate("a red apple", negative="a blue fox", **said)[0]
    assert psnr(drawn, picture) >= 60.0
    assert psnr(ours.generate("a red apple", negative="a blue fox", **{**said, "guidance_rescale": 0.0})[0], drawn) < 40


def test_guidance_that_falls_and_ends_is_diffusers_with_a_callback(model: StableDiffusion, tmp_path: Path) -> None:
    """Dynamic guidance as diffusers' documentation does it: the callback sets it, and halves the batch at the end."""
    save_folder(model, tmp_path / "model")
    opened = pipeline(tmp_path / "model")
    steps, last = 11, 4

    def after_step(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 9.0 - 0.6 * (step + 1)
        if step + 1 == last:
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        if step + 1 >= last:
            pipe._guidance_scale = 1.0
        return tensors

    more = {"callback_on_step_end": after_step, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    picture = theirs(opened, "a red apple", "a blue fox", seed=7, steps=steps, guidance=9.0, **more)
    said: dict[str, Any] = {"negative": "a blue fox", "seed": 7, "steps": steps, "guidance": "9:3"}
    drawn = model.generate("a red apple", guidance_interval=(0.0, last / steps), **said)[0]
    assert psnr(drawn, picture) >= 70.0
    assert psnr(model.generate("a red apple", **said)[0], drawn) < 60.0


LIKE_DIFFUSERS: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("DDIM", "DDIMScheduler", None, {}),
    ("PLMS", "PNDMScheduler", None, {}),
    ("Euler", "EulerDiscreteScheduler", None, {}),
    ("Euler", "EulerDiscreteScheduler", "karras", {"use_karras_sigmas": True}),
    ("Euler", "EulerDiscreteScheduler", "exponential", {"use_exponential_sigmas": True}),
    ("Euler", "EulerDiscreteScheduler", None, {"timestep_spacing": "linspace"}),
    ("Euler", "EulerDiscreteScheduler", None, {"timestep_spacing": "trailing"}),
    ("Euler a", "EulerAncestralDiscreteScheduler", None, {}),
    ("Heun", "HeunDiscreteScheduler", None, {}),
    ("LMS", "LMSDiscreteScheduler", None, {}),
    ("DPM++ 2M", "DPMSolverMultistepScheduler", None, {}),
    ("DPM++ 2M", "DPMSolverMultistepScheduler", "karras", {"use_karras_sigmas": True}),
    ("DPM++ 2M", "DPMSolverMultistepScheduler", None, {"timestep_spacing": "linspace"}),
    ("UniPC", "UniPCMultistepScheduler", None, {}),
]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2 about diffusers
@pytest.mark.parametrize(("sampler", "kind", "schedule", "changes"), LIKE_DIFFUSERS, ids=str)
def test_like_diffusers_is_the_picture_of_each_scheduler(
    model: StableDiffusion, v1_folder: Path, sampler: str, kind: str, schedule: str | None, changes: dict[str, Any]
) -> None:
    """Each scheduler made from v1's configuration, as diffusers' users change them."""
    opened = pipeline(v1_folder)
    opened.scheduler = getattr(diffusers, kind).from_config(opened.scheduler.config, **changes)
    assert opened.scheduler.config.timestep_spacing == changes.get("timestep_spacing", "leading")
    picture = theirs(opened, "a red apple", "a blue fox", seed=7, steps=12, guidance=7.5)
    spacing = V1.model_copy(update={"spacing": opened.scheduler.config.timestep_spacing})
    ours = StableDiffusion(**{**vars(model), "schedule": NoiseSchedule(spacing)})
    settings: dict[str, Any] = dict(negative="a blue fox", seed=7, steps=12, guidance=7.5, sampler=sampler)
    drawn = ours.generate("a red apple", like="diffusers", schedule=schedule, **settings)[0]
    assert np.asarray(drawn).std() > 20
    assert psnr(drawn, picture) >= 50.0


COMMON = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
PUBLISHED = {  # scheduler_config.json as it lies on the hub: none of them says timestep_spacing
    "v1.4": {"_class_name": "PNDMScheduler", "_diffusers_version": "0.7.0.dev0", **COMMON},
    "v1.5": {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", **COMMON},
    "v2-base": {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.8.0", **COMMON, "prediction_type": "epsilon",
    },
    "v2.1": {
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", **COMMON, "prediction_type": "v_prediction",
    },
}  # fmt: skip
SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "PLMS": "PNDMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_published_scheduler_files_are_read_as_diffusers_does(
    model: StableDiffusion, v1_folder: Path, tmp_path: Path, name: str, sampler: str
) -> None:
    """What they leave out, every scheduler of diffusers has its own default for: Euler's spacing is not DDIM's."""
    folder = Path(shutil.copytree(v1_folder, tmp_path / "model"))
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(PUBLISHED[name]))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", PUBLISHED[name]["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))
    opened = pipeline(folder)
    opened.scheduler = getattr(diffusers, SCHEDULERS[sampler]).from_config(opened.scheduler.config)
    picture = theirs(opened, "a red apple", "a blue fox", seed=7, steps=8, guidance=7.5)
    settings: dict[str, Any] = dict(negative="a blue fox", seed=7, steps=8, guidance=7.5, sampler=sampler)
    drawn = diafano.load(folder, device="cpu").generate("a red apple", like="diffusers", **settings)[0]
    assert np.asarray(drawn).std() > 20
    assert psnr(drawn, picture) >= 50.0
    if sampler != "Euler":
        return
    # and still so from a copy that diafano wrote
    save_folder(diafano.load(folder, device="cpu"), tmp_path / "copy")
    copied = diafano.load(tmp_path / "copy", device="cpu").generate("a red apple", like="diffusers", **settings)[0]
    assert copied.tobytes() == drawn.tobytes()


@pytest.fixture(scope="module")
def v1_folder(model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with Stable Diffusion v1's own scheduler."""
    folder = tmp_path_factory.mktemp("v1") / "model"
    save_folder(model, folder)
    diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
        skip_prk_steps=True, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    settings = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    # PNDM does not know this setting, but v1's file has it for DDIM, which would clip its estimates without it.
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({**settings, "clip_sample": False}))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "PNDMScheduler"]}))
    return folder


def test_complaint_clip_skip_off_by_one(model: StableDiffusion, v1_folder: Path) -> None:
    """CLIP skip counts from 1, the last layer, as A1111 does; diffusers' clip_skip counts what is left out."""
    opened = pipeline(v1_folder)
    opened.scheduler = diffusers.DDIMScheduler.from_config(opened.scheduler.config)
    if not hasattr(opened.text_encoder, "text_model"):  # transformers 5, which diffusers' clip_skip does not know
        vars(opened.text_encoder)["text_model"] = opened.text_encoder
    settings: dict[str, Any] = dict(seed=7, steps=5, guidance=7.5, like="diffusers")
    drawn = [model.generate("a red apple", clip_skip=skip, **settings)[0] for skip in (1, 2)]
    for picture, skip in zip(drawn, (None, 1), strict=True):
        generator = torch.Generator("cpu").manual_seed(7)
        other = opened("a red apple", clip_skip=skip, num_inference_steps=5, guidance_scale=7.5, generator=generator)
        assert psnr(picture, other.images[0]) >= 70.0
    assert psnr(*drawn) < 50.0
    of_both = model.generate("a red apple", clip_skip=2, **{**settings, "like": None})[0]
    assert psnr(drawn[1], of_both) < 70.0  # diffusers leaves its negative prompt as it is
    assert "Clip skip" not in drawn[0].info["parameters"] and "Clip skip: 2" in drawn[1].info["parameters"]
    with pytest.raises(UserError, match="CLIP skip 3 is not possible with 2 layers"):
        model.generate("a red apple", clip_skip=3)


def test_a_model_with_bert_opens_in_diffusers_and_draws_the_same(model: StableDiffusion, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "blue", "fox"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    config = BERTConfig(
        vocabulary=10, width=32, mlp_width=64, layers=2, heads=2, positions=80, pooler=True,
        start_token=2, end_token=3, pad_token=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = shaken(BERTTextEncoder(config))
    ours = StableDiffusion(**{**vars(model), "tokenizer": Tokenizer.from_folder(tmp_path), "text_encoder": encoder})
    save_folder(ours, tmp_path / "model")
    picture = theirs(pipeline(tmp_path / "model"), "a red apple", "blue", seed=3, steps=5, guidance=7.5)
    assert psnr(ours.generate("a red apple", negative="blue", seed=3, steps=5)[0], picture) >= 70.0


@pytest.mark.parametrize("dtype", ["float16", None])
def test_saved_weights_and_tokens_open_in_both_libraries(
    model: StableDiffusion, tmp_path: Path, dtype: str | None
) -> None:
    save_folder(model, tmp_path / "model", dtype, max_shard_bytes=100_000)
    opened = pipeline(tmp_path / "model")
    ours = diafano.load(tmp_path / "model", device="cpu")
    for part, other in ((ours.unet, opened.unet), (ours.autoencoder, opened.vae)):
        assert all(torch.equal(part.state_dict()[name], tensor.float()) for name, tensor in other.state_dict().items())
    ids = model.tokenizer(CAPTIONS)
    padded = opened.tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert torch.equal(ids, padded.input_ids)
    with torch.no_grad():
        torch.testing.assert_close(opened.text_encoder.float()(ids)[0], ours.text_encoder(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("second", [False, True], ids=["sd1", "sd2"])
def test_a_folder_that_the_libraries_wrote_draws_the_same_picture(tmp_path: Path, second: bool) -> None:
    """Structure of v1 (convolutions, 8 heads, PNDM) and v2 (linear projections, heads by level, v, GELU)."""
    tokens = tokenizer()
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        shaken(
            diffusers.UNet2DConditionModel(
                sample_size=8, block_out_channels=(32, 32, 64, 64), norm_num_groups=8, cross_attention_dim=32,
                attention_head_dim=(1, 1, 2, 2) if second else 8, use_linear_projection=second,
                upcast_attention=second,
            )
        ).save_pretrained(tmp_path / "unet", max_shard_size="300KB")  # fmt: skip
        shaken(
            diffusers.AutoencoderKL(
                block_out_channels=(16, 16, 16, 16), layers_per_block=2, latent_channels=4, norm_num_groups=8,
                sample_size=64, down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
        ).save_pretrained(tmp_path / "vae")  # fmt: skip
        shaken(
            transformers.CLIPTextModel(
                transformers.CLIPTextConfig(
                    vocab_size=tokens.vocabulary_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=2, hidden_act="gelu" if second else "quick_gelu",
                    bos_token_id=tokens.start_token, eos_token_id=tokens.end_token,
                )
            )
        ).save_pretrained(tmp_path / "text_encoder")  # fmt: skip
        diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
            skip_prk_steps=True, steps_offset=1, prediction_type="v_prediction" if second else "epsilon",
        ).save_pretrained(tmp_path / "scheduler")  # fmt: skip
    tokens.save(tmp_path / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.21.0", "requires_safety_checker": False,
        "feature_extractor": [None, None], "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1

    opened = pipeline(tmp_path)
    opened.scheduler = diffusers.DDIMScheduler.from_config(opened.scheduler.config, clip_sample=False)
    ours = diafano.load(tmp_path, device="cpu")
    assert (ours.card.size, ours.card.steps, ours.card.sampler) == ((64, 64), 50, "pndm")
    picture = theirs(opened, "a red apple", "a blue fox", seed=3, steps=10, guidance=7.5)
    drawn = ours.generate("a red apple", negative="a blue fox", seed=3, steps=10, guidance=7.5, sampler="ddim")[0]
    assert np.asarray(drawn).std() > 5
    assert psnr(drawn, picture) >= 70.0
