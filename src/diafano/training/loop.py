"""The one training loop: whatever is trained, updates, averages, logs, previews and checkpoints go the same way.

All chance in a run comes from (seed, number of the batch), so a run that stops and resumes equals one that did not.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from threading import Event, current_thread, main_thread
from typing import Any, BinaryIO, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from diafano.engine.memory import keep_freed_memory
from diafano.errors import UserError, note
from diafano.files import check_folder, refusal, whole_file
from diafano.pictures.files import save_picture
from diafano.training.ema import MovingAverage
from diafano.training.gradient_checkpointing import recompute_blocks
from diafano.training.optimisers import Optimisers
from diafano.training.recipe import LoopRecipe

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
"""One JSON object a line: `step`, `kind` (train or held_out) and the figures."""
LONGEST_LINE = 10_000
"""Bytes of one of them; most have a few hundred."""


class Stage(Protocol):
    """What the loop trains."""

    trained: nn.Module
    """Everything that has gradients."""

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the batch of that number (they count on over accumulation), and its terms to log."""
        ...

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """A picture of what it can do now, and figures on held-out examples; called with averaged weights."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained as (part of) a diffusers folder; called with averaged weights."""
        ...


@dataclass(frozen=True)
class Progress:
    """What is told about a run from time to time."""

    step: int
    steps: int
    terms: Mapping[str, float]
    pictures_per_second: float
    seconds_left: float


Report = Callable[[Progress], None]


def learning_rate(recipe: LoopRecipe, step: int) -> float:
    """Linear rise over `warmup` updates, then half a cosine down to `final_rate` of the full rate."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    through = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    share = recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + cos(pi * through))
    return recipe.learning_rate * share


class Training:
    """A run of one stage: `run` it, stop it at any time, make it again from the same folder and it goes on."""

    def __init__(self, stage: Stage, recipe: LoopRecipe, folder: Path, device: torch.device, *, resume: bool = True):
        self.stage, self.recipe, self.folder, self.device = stage, recipe, folder, device
        check_folder(self.folder, parents=True)
        if recipe.gradient_checkpointing:
            recompute_blocks(stage.trained)
        self.optimisers = Optimisers(
            stage.trained,
            recipe.optimiser,
            learning_rate=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            parts=recipe.workers,
        )
        self.parameters = self.optimisers.parameters
        self.half = recipe.precision == "bf16" or (recipe.precision == "auto" and multiplies_bf16(device))
        self.average = MovingAverage(stage.trained, recipe.ema)
        self.step = 0
        self.writer: Any = None
        if resume and (folder / CHECKPOINT).exists():
            self._load()

    def run(self, report: Report | None = None, *, until: int | None = None) -> None:
        """Train to the recipe's last step (or `until`), then save what was trained."""
        last = self.recipe.steps if until is None else min(until, self.recipe.steps)
        self.writer = _tensorboard(self.folder) if self.recipe.tensorboard else None
        started, started_at, logged_at, logged_step = time.perf_counter(), self.step, time.perf_counter(), self.step
        threads = max(1, torch.get_num_threads() // self.recipe.workers)
        keep_freed_memory()
        pool = ThreadPoolExecutor(self.recipe.workers, initializer=torch.set_num_threads, initargs=(threads,))
        with pool, interruption() as interrupted:
            while self.step < last:
                terms = self._update(pool)
                self.step += 1
                if self.step % self.recipe.log_every == 0 or self.step == last:
                    now = time.perf_counter()
                    speed = (self.step - logged_step) * self.recipe.batch * self.recipe.accumulate / (now - logged_at)
                    left = (now - started) / (self.step - started_at) * (self.recipe.steps - self.step)
                    values = {name: float(value) for name, value in terms.items()}
                    _check_finite(values, self.step)
                    logged_at, logged_step = now, self.step
                    self._log("train", {**values, "pictures_per_second": speed})
                    if report is not None:
                        report(Progress(self.step, self.recipe.steps, values, speed, left))
                if self.step % self.recipe.preview_every == 0 or self.step == last:
                    self._preview()
                if self.step % self.recipe.checkpoint_every == 0 or self.step == last or interrupted.is_set():
                    self._save()
                if interrupted.is_set():
                    raise KeyboardInterrupt
        with self.average.applied():
            self.stage.save(self.folder)
        if self.writer is not None:
            self.writer.close()

    def _update(self, pool: Executor) -> dict[str, Tensor]:
        """One change of the weights, from `accumulate` batches."""
        first = self.step * self.recipe.accumulate
        passes = pool.map(self._pass, range(first, first + self.recipe.accumulate))
        totals: dict[str, Tensor] = {}
        for terms, gradients in passes:  # in the order of the batches, so that the sums do not depend on chance
            for name, value in terms.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value / self.recipe.accumulate
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    parameter.grad += gradient
        totals["gradient"] = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimisers.step(learning_rate(self.recipe, self.step), pool)
        self.average.update()
        return totals

    def _pass(self, number: int) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        """Loss and terms of one batch, and its share of the gradients."""
        # Every weight is used once in a pass, so autocast's copies are not worth keeping; passes would share them.
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)
        with half:
            loss, terms = self.stage.loss(number, self.step)
        share = loss / self.recipe.accumulate
        gradients = torch.autograd.grad(share, self.parameters, allow_unused=True)
        return {name: value.detach() for name, value in {"loss": loss, **terms}.items()}, gradients

    def _preview(self) -> None:
        self.stage.trained.eval()
        with self.average.applied(), torch.no_grad():
            picture, figures = self.stage.preview()
        self.stage.trained.train()
        path = self.folder / "previews" / f"{self.step:07d}.png"
        with _not_essential(path):
            path.parent.mkdir(exist_ok=True)
            save_picture(picture, path)
        self._log("held_out", figures)

    def _log(self, kind: str, figures: Mapping[str, float]) -> None:
        line = {"step": self.step, "kind": kind, **{name: float(f"{value:.5g}") for name, value in figures.items()}}
        with _not_essential(self.folder / LOG), (self.folder / LOG).open("ab+") as log:
            _cut_half_a_line(log)
            log.write((json.dumps(line) + "\n").encode())
        if self.writer is not None:
            with _not_essential(self.folder / "tensorboard"):
                for name, value in figures.items():
                    self.writer.add_scalar(f"{kind}/{name}", value, self.step)

    def _save(self) -> None:
        """Everything that a resumed run needs, in one file that is whole or not there."""
        state = {
            "step": self.step,
            "trained": self.stage.trained.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "average": self.average.state(),
        }
        path = self.folder / CHECKPOINT
        try:
            with whole_file(path) as unfinished:
                torch.save(state, unfinished)
        except (OSError, RuntimeError) as error:  # torch raises the latter where the disk is full
            reason = refusal(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
            # Training goes on: the next one may find room again, and the earlier one is whole.
            note(f"the checkpoint of step {self.step} could not be written: {reason}; the one before it is kept")

    def _load(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"The checkpoint {refusal(error, path)}, or delete it.") from error
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.stage.trained.load_state_dict(state["trained"])
            self.optimisers.load_state_dict(state["optimisers"])
            self.average.load(state["average"])
            self.step = int(state["step"])
        except Exception as error:  # torch raises many kinds; each means that this file is not this run's
            reason = str(error).partition("\n")[0]
            if path.stat().st_size == 0:
                reason = "it is empty"
            elif isinstance(error, OSError):  # of a place that torch looks for beyond the file's end
                reason = "its end is missing"
            raise UserError(
                f"The checkpoint {path} does not fit this recipe ({reason}): use another output folder, or delete it."
            ) from error


def _cut_half_a_line(log: BinaryIO) -> None:
    """What a full disk has left of a line goes, or the next one would be lost with it."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(0, end - LONGEST_LINE))
    tail = log.read()
    if not tail.endswith(b"\n"):
        log.truncate(end - len(tail) + tail.rfind(b"\n") + 1)


@contextmanager
def _not_essential(path: Path) -> Iterator[None]:
    """What only tells of the training must not end it: a note says what is missing."""
    try:
        yield
    except (OSError, UserError) as error:
        reason = refusal(error, path) if isinstance(error, OSError) else str(error)
        note(f"the training goes on, but without a part of its records: {reason}")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether passes in bf16 are faster there than in fp32.

    On a CPU by AMX alone: with AVX-512 BF16, torch's convolutions and products take twice as long as fp32's.
    """
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16", False))


@contextmanager
def interruption() -> Iterator[Event]:
    """Set when the process is told to stop (Ctrl-C, SIGTERM): the step that runs is finished, and not lost."""
    told = Event()
    if current_thread() is not main_thread():  # only there signals can be listened to
        yield told
        return
    before = {number: signal(number, lambda *_: told.set()) for number in (SIGINT, SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal(number, handler)


def _check_finite(values: Mapping[str, float], step: int) -> None:
    loss = values["loss"]
    if not abs(loss) < float("inf"):  # also catches NaN
        raise UserError(
            f"The loss is {loss} at step {step}: lower the learning rate or use fp32; the last checkpoint is whole."
        )


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "TensorBoard is not installed: pip install 'diafano[train]', or set tensorboard = false in the recipe."
        ) from None
    return SummaryWriter(str(folder / "tensorboard"))
