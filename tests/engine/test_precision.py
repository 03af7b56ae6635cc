"""What overflows in half precision is computed again in float32: the stage where it happens, and no other."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diafano.engine.precision import NanGuard, Upcast, run_with_nan_guard
from diafano.errors import UserError, collect_notes
from diafano.stable_diffusion import StableDiffusion


def with_overflow(model: StableDiffusion, stage: str) -> StableDiffusion:
    """The model, one of whose stages goes beyond float16's 65504 and is brought back by the next norm."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        if stage == "text encoder":
            encoder: Any = model.text_encoder
            for embedding in (
                encoder.embeddings.token_embedding,
                encoder.embeddings.position_embedding,
            ):
                embedding.weight *= 6e4 / embedding.weight.abs().max()
        else:
            networks: dict[str, Any] = {
                "UNet": model.unet,
                "decoder": model.autoencoder.decoder,
                "image encoder": model.autoencoder.encoder,
            }
            networks[stage].conv_in.weight *= 1e5
            networks[stage].conv_in.bias *= 1e5
    return model


def halved(model: StableDiffusion, dtype: torch.dtype = torch.float16) -> StableDiffusion:
    model = copy.deepcopy(model)
    for part in (model.text_encoder, model.unet, model.autoencoder):
        part.to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_half_precision_weights_compute_in_float32(tiny_model: StableDiffusion, dtype: torch.dtype) -> None:
    half = halved(tiny_model, dtype)
    raised = copy.deepcopy(half)
    for part in (raised.text_encoder, raised.unet, raised.autoencoder):
        part.float()
    latent, time = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 3.0])
    ids = tiny_model.tokenizer(["a fox", "two bananas"])
    with Upcast():
        text = half.text_encoder(ids)
        seen = text, half.unet(latent, time, text), half.autoencoder.decode(latent)
    text = raised.text_encoder(ids)
    assert all(map(torch.equal, seen, (text, raised.unet(latent, time, text), raised.autoencoder.decode(latent))))
    assert {weight.dtype for weight in half.unet.parameters()} == {dtype}
    assert half.unet(latent.to(dtype), time, text.to(dtype)).dtype == dtype  # outside it is as before


STAGES = ["text encoder", "UNet", "decoder", "image encoder"]


@pytest.mark.parametrize("stage", STAGES)
def test_that_stage_alone_runs_again_and_the_user_is_told_once(tiny_model: StableDiffusion, stage: str) -> None:
    model = with_overflow(tiny_model, stage)
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    settings = (
        {"seed": 1, "size": (64, 64), "image": image, "strength": 0.9} if stage == "image encoder" else {"seed": 1}
    )
    expected = np.asarray(model.generate("a fox", **settings)[0]).astype(int)
    half = halved(model)
    weights = {name: value.clone() for name, value in half.autoencoder.state_dict().items()}
    ran: dict[str, list[torch.dtype]] = {name: [] for name in STAGES}
    networks = (half.text_encoder, half.unet, half.autoencoder.decoder, half.autoencoder.encoder)
    for name, network in zip(STAGES, networks, strict=True):
        network.register_forward_hook(lambda *given, ran=ran[name]: ran.append(given[-1].dtype))
    with collect_notes() as told:
        picture = half.generate("a fox", **settings)[0]
    (said,) = told
    assert said.startswith(f"the {stage} gave NaN or infinity in float16 and was run again in float32")
    again = {name for name, dtypes in ran.items() if torch.float32 in dtypes}
    assert again == {stage}
    assert len(ran["UNet"]) == {"UNet": 8, "image encoder": 3}.get(stage, 4)
    assert np.abs(np.asarray(picture).astype(int) - expected).mean() < 4
    assert all(torch.equal(value, weights[name]) for name, value in half.autoencoder.state_dict().items())


def test_nothing_is_said_or_run_twice_where_all_is_well(tiny_model: StableDiffusion) -> None:
    half, ran = halved(tiny_model), []
    half.unet.register_forward_hook(lambda *_: ran.append(0))
    half.generate("a fox", seed=1)  # what is noted fails the test
    assert len(ran) == 4


@pytest.mark.parametrize("stage", STAGES[:3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_damaged_weights_are_one_sentence(tiny_model: StableDiffusion, stage: str, dtype: torch.dtype) -> None:
    model = halved(tiny_model, dtype)
    networks = dict(zip(STAGES, (model.text_encoder, model.unet, model.autoencoder.decoder), strict=False))
    with torch.no_grad():
        next(networks[stage].parameters()).fill_(torch.nan)
    even = "even in float32" if dtype == torch.float16 else "NaN or infinity, in float32"
    with pytest.raises(UserError, match=f"the {stage} gives .*{even}"):
        model.generate("a fox", seed=1)


def test_on_a_gpu_a_run_is_looked_at_once_and_repeated_where_it_has_to_be() -> None:
    runs: list[NanGuard | None] = []

    def run(good: bool) -> Callable[..., Tensor]:
        def latent(noise_source: int, nan_guard: NanGuard | None) -> Tensor:
            runs.append(nan_guard)
            return torch.zeros(2) if good or nan_guard is not None else torch.tensor([0.0, torch.inf])

        return latent

    cuda = torch.device("cuda")
    assert run_with_nan_guard(run(good=True), int, cuda).isfinite().all() and runs == [None]
    runs.clear()
    assert run_with_nan_guard(run(good=False), int, cuda).isfinite().all()
    assert runs[0] is None and runs[1] is not None
    runs.clear()
    run_with_nan_guard(run(good=True), int, torch.device("cpu"))
    assert runs[0] is not None and len(runs) == 1


def test_a_repeated_run_starts_from_the_same_noise(
    tiny_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with a sampler that draws fresh noise in each step."""
    model = with_overflow(tiny_model, "UNet")
    settings = {"seed": 1, "sampler": "euler_ancestral"}
    expected = np.asarray(model.generate("a fox", **settings)[0]).astype(int)  # type: ignore[arg-type]
    monkeypatch.setattr(
        "diafano.stable_diffusion.run_with_nan_guard",
        lambda run, source, device: run_with_nan_guard(run, source, torch.device("cuda")),
    )
    steps: list[int] = []
    with collect_notes():
        (drawn,) = halved(model).generate("a fox", on_step=lambda step, *_: steps.append(step), **settings)  # type: ignore[arg-type]
    assert np.abs(np.asarray(drawn).astype(int) - expected).mean() < 4
    assert steps == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_weight_that_is_no_parameter_of_half_precision_stays() -> None:
    layer = nn.Linear(2, 2)
    with Upcast():
        assert layer(torch.zeros(1, 2, dtype=torch.float32)).dtype == torch.float32
        assert (torch.zeros(2).half() + 1).dtype == torch.float16
