"""The stages on tiny networks: each learns, resumes bit for bit, and hands on what the next one opens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diafano.checkpoints.diffusers import load_folder
from diafano.checkpoints.parts import read_part
from diafano.checkpoints.tiny_decoder import load_tiny_decoder
from diafano.errors import UserError
from diafano.families.folder_parts import AUTOENCODER
from diafano.networks.autoencoder import AutoencoderConfig
from diafano.networks.unet import UNetConfig
from diafano.noise.schedule import ScheduleConfig
from diafano.request.card import ModelCard
from diafano.stable_diffusion import StableDiffusion
from diafano.text_encoder.bert import BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig
from diafano.training.examples import Examples, indices_of, to_pixels
from diafano.training.latents import Latents
from diafano.training.loop import Progress, Training
from diafano.training.recipe import AutoencoderRecipe, PreviewRecipe, TextRecipe, UNetRecipe
from diafano.training.stages.autoencoder import AutoencoderStage
from diafano.training.stages.preview import FILE, PreviewStage
from diafano.training.stages.text import TextStage, weighted_words
from diafano.training.stages.unet import UNetStage

CPU = torch.device("cpu")
OBJECTS = ["penguin", "fox", "fish", "apple", "banana", "mushroom", "car", "rocket", "star", "tree", "heart", "house"]
DATA = {"size": 32, "examples": 24, "objects": OBJECTS}
LOOP = {"steps": 12, "batch": 4, "learning_rate": 2e-3, "precision": "fp32", "tensorboard": False, "log_every": 1}


def autoencoder_recipe(folder: Path, **loss: float) -> AutoencoderRecipe:
    network = AutoencoderConfig(widths=(8, 16), layers=1, groups=4, middle_attention=False)
    fields: dict[str, Any] = {"output": folder, "data": DATA, "network": network, "loop": LOOP, "loss": loss}
    return AutoencoderRecipe.model_validate(fields)


def bert_recipe(folder: Path) -> TextRecipe:
    shape = {"width": 32, "mlp_width": 64, "layers": 1, "heads": 2, "positions": 40, "vocabulary": 2000}
    fields = {**text_recipe(folder).model_dump(exclude={"network"}), "kind": "bert", "network": shape}
    return TextRecipe.model_validate(fields)


def text_recipe(folder: Path) -> TextRecipe:
    network = CLIPTextConfig(
        vocabulary=2000, width=32, mlp_width=64, layers=1, heads=2, start_token=0, end_token=1, pad_token=1
    )
    fields: dict[str, Any] = {"output": folder, "data": DATA, "network": network, "loop": LOOP}
    return TextRecipe.model_validate({**fields, "vocabulary": 700, "picture_widths": (8, 16), "shared_width": 16})


def unet_recipe(folder: Path, parts: Path, **changes: Any) -> UNetRecipe:
    network = UNetConfig(widths=(16, 32), layers=1, attention=(False, True), heads=(2, 2), text_width=32, groups=8)
    schedule = ScheduleConfig(kind="cosine", prediction="v", spacing="trailing")
    card = ModelCard(name="tiny", size=(64, 64), steps=2, guidance=2.0)
    fields: dict[str, Any] = {
        "output": folder,
        "data": DATA,
        "autoencoder": parts / "autoencoder",
        "text": parts / "text",
        "network": network,
        "schedule": schedule,
        "card": card,
        "loop": LOOP,
    }
    return UNetRecipe.model_validate({**fields, **changes})


def preview_recipe(folder: Path, model: Path) -> PreviewRecipe:
    network = {"blocks": (1, 0, 0, 1), "width": 8}
    fields: dict[str, Any] = {"output": folder, "model": model, "data": DATA, "network": network, "loop": LOOP}
    return PreviewRecipe.model_validate(fields)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained autoencoder and text encoder, tiny."""
    folder = tmp_path_factory.mktemp("parts")
    first = autoencoder_recipe(folder / "autoencoder")
    Training(AutoencoderStage(first, CPU), first.loop, first.output, CPU).run()
    second = text_recipe(folder / "text")
    Training(TextStage(second, CPU), second.loop, second.output, CPU).run()
    return folder


def weights(training: Training) -> list[Tensor]:
    return [parameter.detach() for parameter in training.stage.trained.parameters()]


def test_the_stages_hand_on_to_each_other_and_end_in_a_model_that_draws(parts: Path, tmp_path: Path) -> None:
    recipe = unet_recipe(tmp_path, parts, train_text=True)
    Training(UNetStage(recipe, CPU), recipe.loop, tmp_path, CPU).run()
    model = load_folder(tmp_path / "model")
    assert model.card == recipe.told_card
    assert model.card.objects == tuple(OBJECTS)
    assert model.schedule.config.prediction == "v"
    picture = model.generate("a cat", seed=1)[0]
    assert picture.size == (64, 64)


def test_an_autoencoder_learns_on(parts: Path, tmp_path: Path) -> None:
    """From its own weights, with its own latent scale: what it gave back it gives back, and is trained to."""
    fields = autoencoder_recipe(tmp_path).model_dump()
    saved = read_part(parts / "autoencoder" / "vae", AUTOENCODER).filled()
    fields["network"]["latent_scale"] = 100.0  # not the one that was found when it was saved
    recipe = AutoencoderRecipe.model_validate({**fields, "start": parts / "autoencoder", "loss": {"texture": 1.0}})
    stage = AutoencoderStage(recipe, CPU)
    pixels = stage.held_out.batch(np.arange(8), CPU)
    with torch.no_grad():
        assert torch.equal(stage.autoencoder.encode(pixels).mean, saved.encode(pixels).mean)
        trained_on = to_pixels(stage.feed(0).pixels, CPU)
        given_back = F.l1_loss(saved.decode(saved.encode(trained_on).mean), trained_on)
        _, terms = stage.loss(0, 0)
        assert terms["absolute"].item() == pytest.approx(given_back.item(), rel=0.1)  # but for the latents' noise
        assert terms["texture"].item() > 0
    wider = {**fields, "start": parts, "network": {**fields["network"], "widths": (16, 16, 16)}}
    with pytest.raises(UserError, match="another shape than the recipe's network"):
        AutoencoderStage(AutoencoderRecipe.model_validate({**wider, "start": parts / "autoencoder"}), CPU)


def test_the_text_encoder_can_be_bert(parts: Path, tmp_path: Path) -> None:
    recipe = bert_recipe(tmp_path / "text")
    stage = TextStage(recipe, CPU)
    with torch.no_grad():
        before = stage.loss(0, 0)[0].item()
    Training(stage, recipe.loop.model_copy(update={"steps": 30}), recipe.output, CPU).run()
    with torch.no_grad():
        assert stage.loss(0, 0)[0].item() < before
    unet = unet_recipe(tmp_path / "unet", parts, text=tmp_path / "text", train_text=True)
    trained = UNetStage(unet, CPU)
    start = [parameter.detach().clone() for parameter in trained.text_encoder.parameters()]
    Training(trained, unet.loop, unet.output, CPU).run()
    moved = [not torch.equal(a, b) for a, b in zip(start, trained.text_encoder.parameters(), strict=True)]
    assert any(moved), "end to end"
    model = load_folder(tmp_path / "unet" / "model")
    assert isinstance(model.text_encoder, BERTTextEncoder)
    assert model.tokenizer.kind == "word_piece" and model.tokenizer.length == 40
    again = load_folder(tmp_path / "unet" / "model").generate("a cat", seed=1)[0]
    assert model.generate("a cat", seed=1)[0].tobytes() == again.tobytes()


def test_the_saved_latent_scale_gives_unit_variance(parts: Path) -> None:
    examples = Examples.read(autoencoder_recipe(parts / "unused").data)
    autoencoder = read_part(parts / "autoencoder" / "vae", AUTOENCODER).filled()
    latents = autoencoder.encode(examples.batch(np.arange(24), CPU)).mean
    assert latents.std().item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("kind", ["autoencoder", "adversarial", "text", "unet", "unet with text", "preview"])
def test_each_stage_learns_and_resumes_bit_for_bit(kind: str, parts: Path, tmp_path: Path, tiny_folder: Path) -> None:
    def training(folder: Path) -> Training:
        torch.manual_seed(77)  # whatever was drawn before must not matter
        if kind in ("autoencoder", "adversarial"):
            first = autoencoder_recipe(folder, adversarial=0.1 if kind == "adversarial" else 0.0)
            return Training(AutoencoderStage(first, CPU), first.loop, folder, CPU)
        if kind == "text":
            second = text_recipe(folder)
            return Training(TextStage(second, CPU), second.loop, folder, CPU)
        if kind == "preview":
            fourth = preview_recipe(folder, tiny_folder)
            return Training(PreviewStage(fourth, CPU), fourth.loop, folder, CPU)
        third = unet_recipe(folder, parts, train_text=kind == "unet with text", caption_dropout=0.5)
        return Training(UNetStage(third, CPU), third.loop, folder, CPU)

    straight = training(tmp_path / "straight")
    told: list[Progress] = []
    with torch.no_grad():
        before = straight.stage.loss(0, 0)[0].item()
    straight.run(told.append)
    halved = training(tmp_path / "halved")
    halved.run(until=5)
    halved = training(tmp_path / "halved")
    assert halved.step == 5
    again: list[Progress] = []
    halved.run(again.append)
    assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(halved), strict=True))
    assert [report.terms["loss"] for report in told[5:]] == [report.terms["loss"] for report in again]
    with torch.no_grad():
        after = straight.stage.loss(0, 0)[0].item()
    assert after < before or kind == "text", "it learns"  # twelve steps tell nothing of texts: see the next test
    assert (tmp_path / "straight" / "previews" / "0000012.png").exists()


def test_the_tiny_decoder_learns_from_pictures_and_from_estimates(
    tmp_path: Path, tiny_folder: Path, tiny_model: StableDiffusion
) -> None:
    recipe = preview_recipe(tmp_path, tiny_folder)
    stage = PreviewStage(recipe, CPU)
    pictures, estimates = stage.held_out.chunk(2)
    assert len(pictures) == len(estimates) == 24
    true = Examples.read(recipe.data, held_out=True)
    with torch.inference_mode():
        latents = tiny_model.autoencoder.encode(true.batch(np.arange(24), CPU)).mean
        assert torch.allclose(pictures, latents, atol=1e-4)
        assert (estimates - latents).square().mean() > 0.01
        made = tiny_model.autoencoder.decode(stage.held_out[-4:]).clamp(-1, 1)
    assert torch.allclose(stage.held_out_pixels[-4:].float(), made, atol=2e-3)  # kept in half precision
    stage.save(tmp_path)
    assert load_tiny_decoder(tmp_path / FILE, tiny_model).config == recipe.network


def test_the_text_stage_learns_which_caption_belongs_to_which_picture(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path)
    loop = recipe.loop.model_copy(update={"steps": 80, "batch": 8, "learning_rate": 4e-3, "ema": 0.5})
    data = recipe.data.model_copy(update={"examples": 8})
    recipe = recipe.model_copy(update={"loop": loop, "data": data})
    stage = TextStage(recipe, CPU)
    Training(stage, loop, tmp_path, CPU).run()
    with torch.no_grad():
        assert stage.loss(0, 0)[0].item() < 0.5 * np.log(8)


def test_batches_of_like_pictures_are_those_nearest_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diafano.training.stages.text.NEIGHBOURS", 1)
    stage = TextStage(text_recipe(tmp_path).model_copy(update={"alike": 1.0}), CPU)
    stage.mean_colours = np.arange(24, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    for number in range(6):
        chosen = sorted(stage._indices(number).tolist())
        assert chosen == list(range(chosen[0], chosen[0] + 4)), "four neighbours on the line"


def test_texts_of_like_words_are_those_that_share_rare_ones() -> None:
    ids = torch.tensor(
        [[0, 5, 7, 8, 1, 1], [0, 8, 7, 5, 1, 1], [0, 5, 7, 9, 1, 1], [0, 5, 6, 4, 1, 1], [0, 5, 4, 6, 1, 1]]
    )
    words = weighted_words(ids, (0, 1))
    alike = words @ words.T
    assert np.allclose(np.diag(alike), 1.0)
    assert alike[0, 1] == pytest.approx(1.0), "order does not matter"
    assert 0 < alike[0, 2] < 1
    assert alike[0, 3] == pytest.approx(0.0), "a token that all have makes none alike"


def test_batches_of_like_captions_share_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diafano.training.stages.text.NEIGHBOURS", 1)
    stage = TextStage(text_recipe(tmp_path).model_copy(update={"alike_captions": 1.0}), CPU)
    stage.words = np.repeat(np.eye(6, dtype=np.float32), 4, axis=0)
    for number in range(6):
        assert len({index // 4 for index in stage._indices(number).tolist()}) == 1


def test_the_discriminator_learns_from_its_own_side_only(tmp_path: Path) -> None:
    """The fooling term must not reach the discriminator's weights, nor the telling term the autoencoder's."""
    only = {"absolute": 0.0, "squared": 0.0, "gradient": 0.0, "divergence": 0.0, "adversarial": 1.0}
    stage = AutoencoderStage(autoencoder_recipe(tmp_path, **only), CPU)
    assert stage.discriminator is not None
    _, terms = stage.loss(0, 0)
    both: Any = [stage.discriminator[-1].weight, stage.autoencoder.decoder.conv_out.weight]
    fooled = torch.autograd.grad(terms["fooling"], both, allow_unused=True, retain_graph=True)
    told = torch.autograd.grad(terms["telling"], both, allow_unused=True)
    assert fooled[0] is None and fooled[1] is not None
    assert told[0] is not None and told[1] is None


def test_dropped_captions_become_the_empty_one(parts: Path, tmp_path: Path) -> None:
    stage = UNetStage(unet_recipe(tmp_path, parts), CPU)
    with torch.no_grad():
        empty = stage.text_encoder(stage.tokenizer([""]))
        own = stage.text_encoder(stage.tokenizer([stage.source.caption(3)]))
    mixed = stage._text(np.array([3, 3]), torch.tensor([False, True]), 0)
    assert torch.allclose(mixed[0], own[0], atol=2e-3)  # the cache holds float16
    assert torch.allclose(mixed[1], empty[0], atol=2e-3)


def test_latents_are_computed_once_and_again_when_the_weights_change(parts: Path, tmp_path: Path) -> None:
    recipe = unet_recipe(tmp_path, parts)
    stage = UNetStage(recipe, CPU)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    UNetStage(recipe, CPU)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files
    with torch.no_grad():
        stage.autoencoder.quant_conv.weight.mul_(1.01)
    Latents(stage.autoencoder, recipe.data, tmp_path / "cache", CPU).of(stage.source, stage.count)
    assert len(list((tmp_path / "cache").glob("latents-*"))) == len([f for f in files if "latents" in f.name]) + 1


def test_latents_of_an_interrupted_run_are_kept(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diafano.training.latents.IN_A_FILE", 10)
    stage = UNetStage(unet_recipe(tmp_path / "whole", parts), CPU)
    with torch.no_grad():
        pixels = Examples.read(stage.recipe.data).batch(np.arange(24), CPU)
        assert torch.equal(stage.latents, stage.autoencoder.encode(pixels).mean.half())
    files = sorted((tmp_path / "whole" / "cache").glob("latents-*-0-10.*"))
    (tmp_path / "halved" / "cache").mkdir(parents=True)
    (tmp_path / "halved" / "cache" / files[0].name).write_bytes(files[0].read_bytes())
    kept = (tmp_path / "halved" / "cache" / files[0].name).stat().st_mtime_ns
    assert torch.equal(UNetStage(unet_recipe(tmp_path / "halved", parts), CPU).latents, stage.latents)
    assert (tmp_path / "halved" / "cache" / files[0].name).stat().st_mtime_ns == kept


def test_while_the_text_encoder_learns_an_example_is_worded_anew_each_time(parts: Path, tmp_path: Path) -> None:
    data = {**DATA, "languages": ["en", "it"]}
    stage = UNetStage(unet_recipe(tmp_path, parts, train_text=True, data=data), CPU)
    said: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        own = stage.source.caption

        def caption(index: int, wording: int = 0) -> str:
            said.append((index, wording))
            return own(index, wording)

        patch.setattr(stage.source, "caption", caption)
        stage.loss(0, 0)
        stage.loss(6, 3)  # 24 examples, 4 a batch: the second time
    assert {wording for _, wording in said[:4]} == {0}
    assert {wording for _, wording in said[4:]} == {1}


def test_every_example_comes_once_an_epoch_in_an_order_that_changes() -> None:
    first = np.concatenate([indices_of(1, number, 4, 12) for number in range(3)])
    second = np.concatenate([indices_of(1, number, 4, 12) for number in range(3, 6)])
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second)
    assert list(indices_of(1, 2, 5, 12)) == [*np.concatenate([first, second])[10:15]]
