"""From maps to objects, and the judge's folder."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from diafano.errors import UserError
from diafano.evaluation.detector import BACKGROUND_CLASSES, TINT_CLASSES, Detector, DetectorConfig
from diafano.evaluation.judge import CONFIG, LEAST_SCORE, SHIPPED, Judge, decode

OBJECTS = ("cat", "dog", "fox")


def heat_of(*peaks: tuple[int, int, int, float]) -> Tensor:
    heat = torch.zeros(3, 16, 16)
    for kind, row, column, score in peaks:
        heat[kind, row, column] = score
    return heat


NO_TINT = torch.zeros(len(TINT_CLASSES), 16, 16)


def test_peaks_become_objects_where_they_stand() -> None:
    tints = NO_TINT.clone()
    tints[TINT_CLASSES.index("blue"), 3, 10] = 5.0
    tints[TINT_CLASSES.index(None), 12, 2] = 5.0
    found = decode(heat_of((1, 3, 10, 0.9), (2, 12, 2, 0.6)), tints, OBJECTS)
    assert [(one.name, one.tint) for one in found] == [("dog", "blue"), ("fox", None)]
    assert (found[0].x, found[0].y) == pytest.approx((10.5 / 16, 3.5 / 16))
    assert (found[1].x, found[1].y) == pytest.approx((2.5 / 16, 12.5 / 16))
    assert found[0].score == pytest.approx(0.9)


def test_a_centre_between_two_cells_is_found_between_them() -> None:
    found = decode(heat_of((0, 5, 5, 0.8), (0, 5, 6, 0.7999)), NO_TINT, OBJECTS)
    assert len(found) == 1
    assert found[0].x == pytest.approx(6 / 16, abs=1e-3)


def test_weak_peaks_are_nothing() -> None:
    assert decode(heat_of((0, 5, 5, LEAST_SCORE - 0.01)), NO_TINT, OBJECTS) == ()
    assert len(decode(heat_of((0, 5, 5, LEAST_SCORE + 0.01)), NO_TINT, OBJECTS)) == 1


def test_one_place_shows_one_thing() -> None:
    found = decode(heat_of((0, 5, 5, 0.8), (1, 5, 5, 0.7), (1, 6, 7, 0.6)), NO_TINT, OBJECTS)
    assert [one.name for one in found] == ["cat"]


def test_neighbours_three_cells_apart_are_two() -> None:
    found = decode(heat_of((0, 5, 5, 0.8), (0, 5, 8, 0.7)), NO_TINT, OBJECTS)
    assert [one.name for one in found] == ["cat", "cat"]


def test_equal_heights_side_by_side_are_one_and_flat_maps_are_few() -> None:
    assert len(decode(heat_of((0, 5, 5, 0.8), (0, 5, 6, 0.8)), NO_TINT, OBJECTS)) == 1
    assert len(decode(torch.full((3, 16, 16), 0.5), NO_TINT, OBJECTS)) <= 36


def test_peaks_at_corners_and_nothing_at_all() -> None:
    found = decode(heat_of((0, 0, 0, 0.8), (1, 15, 15, 0.7)), NO_TINT, OBJECTS)
    assert (found[0].x, found[1].y) == pytest.approx((0.5 / 16, 15.5 / 16))
    assert decode(torch.zeros(3, 16, 16), NO_TINT, OBJECTS) == ()


def test_network_shapes() -> None:
    detector = Detector(DetectorConfig(objects=OBJECTS, widths=(8, 8, 8), layers=1, groups=4))
    centres, tints, background = detector(torch.zeros(2, 3, 64, 64))
    assert centres.shape == (2, 3, 16, 16)
    assert tints.shape == (2, len(TINT_CLASSES), 16, 16)
    assert background.shape == (2, len(BACKGROUND_CLASSES))


def test_the_shipped_judge_is_small_and_knows_its_objects() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 1.5 * 2**20
    assert len(Judge.shipped().objects) >= 60


def test_pictures_of_any_size_are_judged_alike() -> None:
    from diafano.training.data.emoji.sprites import Sprites

    picture = Image.new("RGB", (64, 64), (36, 84, 224))
    fox = Sprites.shipped()["fox"].resize((28, 28))
    picture.paste(fox, (20, 14), fox)
    judge = Judge.shipped()
    small, large, none = judge.look([picture, picture.resize((256, 256), Image.Resampling.BICUBIC)]) + judge.look(
        [Image.new("RGB", (64, 64), (36, 84, 224))]
    )
    for sighting in (small, large):
        assert [(one.name, one.tint) for one in sighting.detections] == [("fox", None)]
        assert sighting.background == "blue"
        assert (sighting.detections[0].x, sighting.detections[0].y) == pytest.approx((34 / 64, 28 / 64), abs=0.05)
    assert none.detections == () and none.background == "blue"
    assert judge.look([]) == []


def test_a_folder_that_is_no_judge_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=CONFIG):
        Judge.from_folder(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"network": {"objects": ["cat", "dog"], "depth": 3}}))
    with pytest.raises(UserError, match="depth"):
        Judge.from_folder(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"network": {"objects": ["cat", "cat"]}}))
    with pytest.raises(UserError, match="twice"):
        Judge.from_folder(tmp_path)
