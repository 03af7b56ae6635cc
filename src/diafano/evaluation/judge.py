"""The judge: looks at a picture and says what it sees, in the words that scenes are described with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from diafano.checkpoints.reading import assign_weights, read_json, read_weights
from diafano.errors import UserError
from diafano.evaluation.detector import BACKGROUND_CLASSES, EDGE, STRIDE, TINT_CLASSES, Detector, DetectorConfig
from diafano.pictures.pixels import fit, to_pixels

SHIPPED = Path(__file__).parent / "judge"
"""Folder of the judge that comes with the package."""
CONFIG, WEIGHTS = "judge.json", "judge"
"""Names in a judge's folder; the weights' file ends in .safetensors."""

LEAST_SCORE = 0.35
"""Certainty from which on an object counts as seen, and a background as told."""
REACH = 2
"""Cells around a peak in which no second object can stand: centres of scenes' objects are at least 4 cells apart."""
BATCH = 64


class JudgeCard(BaseModel):
    """What is stored beside the judge's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: DetectorConfig
    natural_tints: dict[str, str] = {}
    """Object -> the tint that its natural look can hardly be told from: a natural heart is a red heart."""


@dataclass(frozen=True)
class Detection:
    """One object that the judge sees."""

    name: str
    tint: str | None
    """One of the tints, or None for natural colours."""
    x: float
    y: float
    """The centre, as shares of the picture's width and height."""
    score: float
    """Certainty, 0 to 1."""


@dataclass(frozen=True)
class Sighting:
    """All that the judge sees in one picture, most certain first."""

    detections: tuple[Detection, ...]
    background: str | None
    """Name of the colour, or None where no plain colour of a name is seen."""

    def of(self, name: str) -> tuple[Detection, ...]:
        """What is seen of one kind of object."""
        return tuple(detection for detection in self.detections if detection.name == name)


class Judge:
    """Sees objects, tints and backgrounds. `card.network.objects` are those that it knows."""

    def __init__(self, detector: Detector, card: JudgeCard, device: torch.device | str = "cpu") -> None:
        self.detector = detector.to(device).eval()
        self.card = card
        self.device = torch.device(device)

    @property
    def objects(self) -> tuple[str, ...]:
        return self.card.network.objects

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> "Judge":
        """Read what training wrote. Raises UserError for what is missing or does not fit."""
        try:
            card = JudgeCard.model_validate(read_json(folder / CONFIG))
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])
            raise UserError(f"{folder / CONFIG} is no judge's: {key}: {fault['msg']}; train the judge again") from None
        detector = Detector(card.network)
        weights = read_weights(folder, WEIGHTS)
        assign_weights(detector, weights, device=torch.device(device), dtype=torch.float32, where=folder)
        return cls(detector, card, device)

    @classmethod
    def shipped(cls, device: torch.device | str = "cpu") -> "Judge":
        """The judge that comes with the package."""
        return cls.from_folder(SHIPPED, device)

    def look(self, pictures: Sequence[Image.Image]) -> list[Sighting]:
        """What each picture shows; pictures of another size are made 64x64 first."""
        if not pictures:
            return []
        return self.look_at_pixels(pixels_of(pictures))

    @torch.inference_mode()
    def look_at_pixels(self, pixels: Tensor) -> list[Sighting]:
        """The same from pixels (b, 3, 64, 64) in [-1, 1]."""
        sightings: list[Sighting] = []
        for part in torch.split(pixels, BATCH):
            centres, tints, backgrounds = self.detector(part.to(self.device))
            shown = zip(centres.sigmoid().cpu(), tints.cpu(), backgrounds.softmax(1).cpu(), strict=True)
            sightings += [
                Sighting(decode(one, tint, self.objects), _told(background)) for one, tint, background in shown
            ]
        return sightings

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels (b, 3, 64, 64) in [-1, 1] -> (b, features): what it sees, in its own terms (`Detector.features`)."""
        return torch.cat([self.detector.features(part.to(self.device)).cpu() for part in torch.split(pixels, BATCH)])


def pixels_of(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size -> pixels (b, 3, 64, 64) in [-1, 1], as the judge looks at them."""
    return torch.stack([to_pixels(fit(picture, EDGE, EDGE)) for picture in pictures])


def decode(heat: Tensor, tints: Tensor, objects: Sequence[str]) -> tuple[Detection, ...]:
    """Probabilities of centres (objects, 16, 16) and tint logits (9, 16, 16) -> objects, most certain first.

    An object is a cell whose best class beats every class in the cells within `REACH` around it: one place shows one
    thing, so a cat that is a little dog as well is not two animals.
    """
    best, classes = heat.max(dim=0)  # (16, 16) each
    around = F.max_pool2d(best[None], 2 * REACH + 1, stride=1, padding=REACH)[0]
    peaks = (best == around) & (best >= LEAST_SCORE)
    found: list[tuple[float, int, int]] = [
        (float(best[row, column]), row, column) for row, column in peaks.nonzero().tolist()
    ]
    found.sort(key=lambda peak: (-peak[0], *peak[1:]))
    detections: list[Detection] = []
    kept: list[tuple[int, int]] = []
    for score, row, column in found:
        if any(max(abs(row - other), abs(column - side)) <= REACH for other, side in kept):
            continue  # two cells of exactly the same height are one peak
        kept.append((row, column))
        x, y = _centre(heat[classes[row, column]], row, column)
        tint = TINT_CLASSES[int(tints[:, row, column].argmax())]
        detections.append(Detection(objects[int(classes[row, column])], tint, x, y, score))
    return tuple(detections)


def _centre(heat: Tensor, row: int, column: int) -> tuple[float, float]:
    """Mean position around a peak, weighted by its height, so that it is finer than a cell; as shares of the edge."""
    top, left = max(row - 1, 0), max(column - 1, 0)
    weights = heat[top : row + 2, left : column + 2]
    rows = torch.arange(top, top + weights.shape[0]) + 0.5
    columns = torch.arange(left, left + weights.shape[1]) + 0.5
    total = weights.sum()
    x, y = (weights.sum(0) * columns).sum() / total, (weights.sum(1) * rows).sum() / total
    return float(x) * STRIDE / EDGE, float(y) * STRIDE / EDGE


def _told(probabilities: Tensor) -> str | None:
    """(13,) -> the background's colour, if one is clear."""
    share, index = probabilities.max(dim=0)
    return BACKGROUND_CLASSES[int(index)] if float(share) >= LEAST_SCORE else None
