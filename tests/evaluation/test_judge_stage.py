"""The judge's losses, what it takes for natural, and a few updates in the one loop."""

import math
from pathlib import Path

import pytest
import torch

from diafano.cli.main import run
from diafano.errors import UserError
from diafano.evaluation.detector import DetectorConfig
from diafano.evaluation.judge import Judge
from diafano.evaluation.judge_stage import JudgeRecipe, JudgeStage, focal_loss, natural_tints
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.loop import Training
from diafano.training.recipe import LoopRecipe

OBJECTS = ("cat", "dog", "heart", "star", "key", "robot", "car", "tree")


@pytest.fixture(autouse=True)
def quick_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diafano.evaluation.judge_stage.PREVIEW_SCENES", 2)


def recipe(folder: Path, **loop: object) -> JudgeRecipe:
    settings: dict[str, object] = {"steps": 4, "batch": 4, "precision": "fp32", "tensorboard": False, **loop}
    return JudgeRecipe(
        output=folder,
        network=DetectorConfig(objects=OBJECTS, widths=(8, 8, 16), layers=1, groups=4),
        loop=LoopRecipe.model_validate(settings),
    )


def test_focal_loss_is_the_papers_equation() -> None:
    heat = torch.tensor([1.0, 0.5, 0.0])
    probability = torch.tensor([0.7, 0.4, 0.2])
    by_hand = -(0.3**2 * math.log(0.7) + 0.5**4 * 0.4**2 * math.log(0.6) + 0.2**2 * math.log(0.8))
    assert focal_loss(probability.logit(), heat).item() == pytest.approx(by_hand, rel=1e-5)


def test_focal_loss_without_objects_is_finite() -> None:
    assert focal_loss(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(-4 * 0.25 * math.log(0.5))


def test_natural_tints_are_those_one_cannot_tell() -> None:
    is_doubled = natural_tints(Sprites.shipped(), OBJECTS)
    assert is_doubled["heart"] == "red" and is_doubled["star"] == "yellow"
    assert not {"robot", "dog", "tree"} & is_doubled.keys()


def test_loss_falls_and_the_saved_judge_opens(tmp_path: Path) -> None:
    stage = JudgeStage(recipe(tmp_path, steps=12, batch=8, learning_rate=5e-3, ema=0.0), torch.device("cpu"))
    before = stage.loss(0, 0)[0].item()
    Training(stage, stage.recipe.loop, tmp_path, torch.device("cpu")).run()
    assert stage.loss(0, 0)[0].item() < 0.8 * before
    judge = Judge.from_folder(tmp_path / "judge")
    assert judge.objects == OBJECTS and judge.card.natural_tints["heart"] == "red"
    shared = judge.detector.stem.weight - stage.detector.stem.weight
    assert shared.abs().max() < 1e-3  # half precision
    assert (tmp_path / "previews").is_dir()


def test_stopped_and_resumed_equals_straight_through(tmp_path: Path) -> None:
    def trained(folder: Path, *stops: int | None) -> dict[str, torch.Tensor]:
        for stop in stops:
            stage = JudgeStage(recipe(folder), torch.device("cpu"))
            Training(stage, stage.recipe.loop, folder, torch.device("cpu")).run(until=stop)
        return stage.detector.state_dict()

    straight, resumed = trained(tmp_path / "a", None), trained(tmp_path / "b", 2, None)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_an_object_that_is_not_there_is_named(tmp_path: Path) -> None:
    wrong = recipe(tmp_path).model_copy(update={"network": DetectorConfig(objects=("cat", "unicorn horn"))})
    with pytest.raises(UserError, match="unicorn horn"):
        JudgeStage(wrong, torch.device("cpu"))


def test_the_command_explains_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "judge", "--config", str(tmp_path / "absent.toml")]) == 2
    assert "absent.toml" in capsys.readouterr().err
