"""Training of the judge, in the one loop that trains everything: `diafano train judge`."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from diafano.checkpoints.writing import folder_in_place, write_json, write_weights
from diafano.errors import UserError
from diafano.evaluation.accuracy import accuracy_of
from diafano.evaluation.detector import TINT_CLASSES, Detector, DetectorConfig
from diafano.evaluation.judge import CONFIG, WEIGHTS, Judge, JudgeCard
from diafano.evaluation.judge_pictures import JudgePictures
from diafano.pictures.pixels import grid, to_picture
from diafano.training.data.emoji.colours import TINTS
from diafano.training.data.emoji.objects import OBJECTS
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.recipe import Section, StageRecipe

TWIN_DIFFERENCE = 25.0
"""Mean difference in levels, of 255, below which an object's tinted look passes for its natural one."""
TWIN_EDGE = 28
"""Pixels a side at which the two looks are compared: about the size they have in a picture."""
PREVIEW_SCENES = 20
"""True scenes a task for the figures of a preview."""


class JudgeLossRecipe(Section):
    """Weights of the parts of the judge's loss."""

    centres: float = Field(default=1.0, ge=0)
    tints: float = Field(default=1.0, ge=0)
    natural: float = Field(default=0.5, gt=0)
    """Of an untinted object beside a tinted one's 1: there are many more of them, and doubt would call all natural."""
    background: float = Field(default=0.5, ge=0)


class JudgeRecipe(StageRecipe):
    """What the recipe of the judge holds."""

    network: DetectorConfig
    loss: JudgeLossRecipe = JudgeLossRecipe()


class JudgeStage:
    """Centres by the focal loss, tints at the centres and backgrounds by cross-entropy."""

    def __init__(self, recipe: JudgeRecipe, device: torch.device) -> None:
        unknown = [name for name in recipe.network.objects if name not in OBJECTS]
        if unknown:
            raise UserError(
                f"There is no object named {unknown[0]!r}: see diafano.training.data.emoji.objects for those there are."
            )
        torch.manual_seed(recipe.loop.seed)  # of the starting weights
        self.recipe, self.device = recipe, device
        self.detector = Detector(recipe.network)
        self.trained: nn.Module = self.detector.to(device)
        self.tint_weight = torch.ones(len(TINT_CLASSES), device=device)
        self.tint_weight[TINT_CLASSES.index(None)] = recipe.loss.natural
        self.sprites = Sprites.shipped()
        self.pictures = JudgePictures(self.sprites, recipe.network.objects, recipe.loop.seed)
        self.card = JudgeCard(network=recipe.network, natural_tints=natural_tints(self.sprites, recipe.network.objects))

    def loss(self, number: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.pictures.batch(number, self.recipe.loop.batch)
        centres, tints, background = self.detector(batch.pixels.to(self.device))
        terms = {
            "centres": focal_loss(centres.float(), batch.heat.to(self.device)),
            "tints": _cross_entropy(tints.float(), batch.tints.to(self.device), self.tint_weight),
            "background": _cross_entropy(background.float(), batch.background.to(self.device)),
        }
        weights = self.recipe.loss
        total = weights.centres * terms["centres"] + weights.tints * terms["tints"]
        return total + weights.background * terms["background"], terms

    def preview(self) -> tuple[Image.Image, dict[str, float]]:
        """Some pictures that it learns from, and its accuracy in each task."""
        judge = Judge(self.detector, self.card, self.device)
        rows = accuracy_of(judge, self.sprites, scenes=PREVIEW_SCENES)
        shown = self.pictures.batch(0, 64).pixels
        return grid([to_picture(one) for one in shown], 16), {task: row.accuracy for task, row in rows.items()}

    def save(self, folder: Path) -> None:
        """`judge/` in the run's folder: half-precision weights and the card."""
        with folder_in_place(folder / "judge", marker=CONFIG) as target:
            write_weights(self.detector.state_dict(), target, WEIGHTS, dtype=torch.float16)
            write_json(target / CONFIG, self.card.model_dump(mode="json"))


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Law and Deng 2018; CenterNet, equation 1), alpha 2 and beta 4, a sum per object.

    ``heat`` is 1 at centres; cells near one are punished less for being certain.
    """
    probability = logits.sigmoid()
    centre = (heat == 1).to(logits.dtype)
    missed = F.logsigmoid(logits) * (1 - probability) ** 2 * centre
    invented = F.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4 * (1 - centre)
    return -(missed + invented).sum() / centre.sum().clamp(min=1)


def _cross_entropy(logits: Tensor, classes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over what is not ignored; 0 where all is. `weight` is one a class."""
    total = F.cross_entropy(logits, classes, weight, reduction="sum")
    return total / (classes >= 0).sum().clamp(min=1)


def natural_tints(sprites: Sprites, objects: tuple[str, ...]) -> dict[str, str]:
    """Object -> the tint nearest to its natural look, for objects where the two can hardly be told apart."""
    look_alikes: dict[str, str] = {}
    for name in objects:
        plain = sprites.sized(name, TWIN_EDGE)
        weight = plain[..., 3:] / (3 * plain[..., 3].sum(dtype=np.float64))
        differences = {
            tint: float(
                (np.abs(plain[..., :3] - sprites.sized(name, TWIN_EDGE, tint)[..., :3].astype(float)) * weight).sum()
            )
            for tint in TINTS
        }
        nearest = min(differences, key=lambda tint: differences[tint])
        if differences[nearest] < TWIN_DIFFERENCE:
            look_alikes[name] = nearest
    return look_alikes
