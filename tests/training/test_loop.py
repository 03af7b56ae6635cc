"""The training loop: averages, rates, accumulation, and runs that stop and go on."""

import json
import math
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from diafano.errors import UserError
from diafano.training.ema import MovingAverage
from diafano.training.loop import Progress, Training, learning_rate, multiplies_bf16
from diafano.training.recipe import LoopRecipe

CPU = torch.device("cpu")


class LineStage:
    """Learns a line from points; batch `number` holds the points of that number."""

    def __init__(self, batch: int = 8, bad_step: int | None = None) -> None:
        torch.manual_seed(3)
        self.trained: Any = nn.Linear(2, 1)
        self.batch, self.bad_step = batch, bad_step
        self.saved: Tensor | None = None

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.randn(self.batch, 2, generator=torch.Generator().manual_seed(number))
        error = self.trained(x) - x @ torch.tensor([[2.0], [-1.0]])
        loss = error.square().mean()
        return (loss * math.nan if step == self.bad_step else loss), {"mean": error.mean()}

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        return Image.new("RGB", (4, 4)), {"figure": 1.0}

    def save(self, folder: Path) -> None:
        self.saved = self.trained.weight.detach().clone()


class ConvolutionStage(LineStage):
    """The same with a convolution between two narrow ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.trained = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 1, 3))

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        return (self.trained(x) - x[..., 3:5, 3:5]).square().mean(), {}

    def save(self, folder: Path) -> None:
        pass


def recipe(**changes: object) -> LoopRecipe:
    fields = {
        "steps": 40,
        "batch": 8,
        "learning_rate": 0.05,
        "precision": "fp32",
        "tensorboard": False,
        "checkpoint_every": 7,
        "preview_every": 10,
        "log_every": 5,
        "ema": 0.9,
    }
    return LoopRecipe.model_validate({**fields, **changes})


def test_the_loop_learns_and_saves_averaged_weights(tmp_path: Path) -> None:
    stage = LineStage()
    training = Training(stage, recipe(steps=300), tmp_path, CPU)
    training.run()
    assert stage.saved is not None
    assert torch.allclose(stage.saved, torch.tensor([[2.0, -1.0]]), atol=0.02)
    assert not torch.equal(stage.saved, stage.trained.weight), "the average was saved, not the last weights"


def test_a_run_that_stops_and_resumes_equals_one_straight_through_bit_for_bit(tmp_path: Path) -> None:
    straight = LineStage()
    Training(straight, recipe(), tmp_path / "straight", CPU).run()
    Training(LineStage(), recipe(), tmp_path / "halved", CPU).run(until=17)
    resumed = LineStage()
    told: list[Progress] = []
    Training(resumed, recipe(), tmp_path / "halved", CPU).run(told.append)
    assert told[0].step == 20, "it went on from step 17"
    assert torch.equal(resumed.trained.weight, straight.trained.weight)
    assert straight.saved is not None and resumed.saved is not None
    assert torch.equal(resumed.saved, straight.saved), "the average went on too"


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(progress: Progress) -> None:
        if progress.step == 20:
            raise Killed

    with pytest.raises(Killed):
        Training(LineStage(), recipe(), tmp_path, CPU).run(die)
    again = Training(LineStage(), recipe(), tmp_path, CPU)
    assert again.step == 14
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_told_to_stop_loses_no_step(tmp_path: Path, number: signal.Signals) -> None:
    straight = LineStage()
    Training(straight, recipe(), tmp_path / "straight", CPU).run()

    def stop(progress: Progress) -> None:
        if progress.step == 20:
            os.kill(os.getpid(), number)

    listening = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        Training(LineStage(), recipe(), tmp_path / "stopped", CPU).run(stop)
    assert signal.getsignal(number) is listening
    resumed = LineStage()
    again = Training(resumed, recipe(), tmp_path / "stopped", CPU)
    assert again.step == 20
    again.run()
    assert torch.equal(resumed.trained.weight, straight.trained.weight)


def test_precision_is_chosen_for_the_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda amx=amx: {"avx512_bf16": True, "amx_bf16": amx})
        assert Training(LineStage(), recipe(precision="auto"), tmp_path, CPU).half is amx
    assert multiplies_bf16(torch.device("cuda"))
    assert Training(LineStage(), recipe(precision="bf16"), tmp_path, CPU).half


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    class Whole(LineStage):
        def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            losses = [LineStage.loss(self, 4 * number + part, step)[0] for part in range(4)]
            return torch.stack(losses).mean(), {}

    parts, whole = LineStage(), Whole()
    Training(parts, recipe(accumulate=4), tmp_path / "parts", CPU).run()
    Training(whole, recipe(), tmp_path / "whole", CPU).run()
    assert torch.allclose(parts.trained.weight, whole.trained.weight, atol=1e-6)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss is nan at step 15"):
        Training(LineStage(bad_step=14), recipe(), tmp_path, CPU).run()
    assert Training(LineStage(), recipe(), tmp_path, CPU).step == 14


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    Training(LineStage(), recipe(), tmp_path, CPU).run(until=7)
    other = LineStage()
    other.trained = nn.Linear(3, 1)
    with pytest.raises(UserError, match="does not fit this recipe"):
        Training(other, recipe(), tmp_path, CPU)


def test_learning_rate_rises_and_falls() -> None:
    settings = recipe(steps=110, warmup=10, learning_rate=1.0, final_rate=0.1)
    rates = [learning_rate(settings, step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5)  # half-way down the cosine
    assert rates[110] == pytest.approx(0.1)
    assert all(after <= before for before, after in pairwise(rates[10:]))


def test_the_average_steps_by_its_equation() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = MovingAverage(layer, 0.5)
    expected = 0.0
    for update in range(1, 6):
        nn.init.constant_(layer.weight, float(update))
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 5.0, "the weights come back"


def test_without_decay_the_average_is_the_weights_and_takes_no_memory() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = MovingAverage(layer, 0.0)
    held = average.state()["average"]
    nn.init.constant_(layer.weight, 3.0)
    average.update()
    with average.applied():
        assert layer.weight.item() == 3.0
    assert held == []
    average.load({"updates": 7, "average": [torch.zeros(1, 1)]})  # of a run that had one
    assert average.updates == 7 and layer.weight.item() == 3.0


def test_previews_and_figures_are_written(tmp_path: Path) -> None:
    Training(LineStage(), recipe(), tmp_path, CPU).run()
    assert sorted(path.name for path in (tmp_path / "previews").iterdir())[-1] == "0000040.png"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["kind"] == "held_out"][-1] == {"step": 40, "kind": "held_out", "figure": 1.0}
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 8 and losses[-1] < losses[0]


def test_passes_side_by_side_train_as_passes_in_turn(tmp_path: Path) -> None:
    in_turn, beside = LineStage(), LineStage()
    Training(in_turn, recipe(accumulate=4), tmp_path / "turn", CPU).run()
    Training(beside, recipe(accumulate=4, workers=3), tmp_path / "beside", CPU).run()
    assert torch.equal(beside.trained.weight, in_turn.trained.weight), "the order of the sums is fixed"


def test_workers_without_passes_are_refused() -> None:
    with pytest.raises(ValidationError, match="raise accumulate"):
        recipe(workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_muon_resumes_bit_for_bit(tmp_path: Path, workers: int) -> None:
    settings = recipe(optimiser="muon", accumulate=workers, workers=workers, steps=20)
    straight = ConvolutionStage()
    Training(straight, settings, tmp_path / "straight", CPU).run()
    Training(ConvolutionStage(), settings, tmp_path / "halved", CPU).run(until=11)
    resumed = ConvolutionStage()
    Training(resumed, settings, tmp_path / "halved", CPU).run()
    for one, other in zip(resumed.trained.parameters(), straight.trained.parameters(), strict=True):
        assert torch.equal(one, other)


# ---- what lies in a run's folder


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(bytes(range(256))), "does not fit this recipe"),
        (halved, "does not fit this recipe"),
        (a_folder, "Is a directory"),
        (lambda path: torch.save([1], path), "does not fit this recipe"),
    ],
    ids=["empty", "garbage", "half", "a folder", "a list"],
)
def test_a_checkpoint_that_is_none_is_one_sentence(change: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    Training(LineStage(), recipe(), tmp_path, CPU).run(until=7)
    change(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=said) as raised:
        Training(LineStage(), recipe(), tmp_path, CPU)
    assert "checkpoint.pt" in str(raised.value) and "[Errno" not in str(raised.value)
    assert "delete it" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("left", ["", "half", '{"step": 1}\n{"st', '{"step": 1}\n'])
def test_what_a_full_disk_left_of_a_line_costs_no_other_line(left: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(left)
    Training(LineStage(), recipe(), tmp_path, CPU).run(until=5)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1] * left.count("\n") + [5, 5]
