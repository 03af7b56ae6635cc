"""The rules on hand-made sightings: each passes for what it asks and fails for the nearest thing that it does not."""

import pytest

from diafano.errors import UserError
from diafano.evaluation.judge import Detection, Sighting
from diafano.evaluation.rules import judged
from diafano.training.data.emoji.scenes import Scene, Thing

TWINS = {"heart": "red"}


def saw(*objects: Detection, background: str | None = "blue") -> Sighting:
    return Sighting(objects, background)


def at(name: str, x: float = 0.5, y: float = 0.5, tint: str | None = None, score: float = 0.9) -> Detection:
    return Detection(name, tint, x, y, score)


def passes(task: str, scene: Scene, sighting: Sighting) -> bool:
    verdict = judged(task, scene, sighting, TWINS)  # type: ignore[arg-type]
    assert verdict.passed == (verdict.why == "")
    return verdict.passed


CAT = Scene((Thing("cat"),), "blue")
CAT_AND_DOG = Scene((Thing("cat"), Thing("dog")), "blue")


def test_single_object() -> None:
    assert passes("single_object", CAT, saw(at("cat")))
    assert passes("single_object", CAT, saw(at("dog"), at("cat"), background=None))
    assert not passes("single_object", CAT, saw(at("dog")))
    assert judged("single_object", CAT, saw(), TWINS).why == "no cat"


def test_two_objects() -> None:
    assert passes("two_objects", CAT_AND_DOG, saw(at("dog"), at("cat")))
    assert not passes("two_objects", CAT_AND_DOG, saw(at("cat"), at("cat", 0.1)))
    assert not passes("two_objects", CAT_AND_DOG, saw(at("dog")))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5])
def test_counting_is_exact(number: int) -> None:
    scene = Scene((Thing("cat", count=3),), "blue")
    seen = saw(at("dog"), *(at("cat", x=number / 10) for number in range(number)))
    assert passes("counting", scene, seen) == (number == 3)


def test_colour() -> None:
    scene = Scene((Thing("cat", tint="red"),), "blue")
    assert passes("colour", scene, saw(at("cat", tint="red")))
    assert not passes("colour", scene, saw(at("cat", tint="pink")))
    assert not passes("colour", scene, saw(at("cat")))
    assert not passes("colour", scene, saw(at("dog", tint="red")))


def test_the_most_certain_object_of_a_kind_decides() -> None:
    scene = Scene((Thing("cat", tint="red"),), "blue")
    assert passes("colour", scene, saw(at("cat", tint="green", score=0.4), at("cat", tint="red", score=0.8)))
    assert not passes("colour", scene, saw(at("cat", tint="green", score=0.8), at("cat", tint="red", score=0.4)))


def test_a_natural_heart_is_a_red_heart_and_no_other() -> None:
    for tint in ("red", "green"):
        scene = Scene((Thing("heart", tint=tint),), "blue")
        assert passes("colour", scene, saw(at("heart"))) == (tint == "red")


def test_colour_binding() -> None:
    scene = Scene((Thing("cat", tint="red"), Thing("dog", tint="green")), "blue")
    assert passes("colour_binding", scene, saw(at("dog", tint="green"), at("cat", tint="red")))
    assert not passes("colour_binding", scene, saw(at("dog", tint="red"), at("cat", tint="green")))
    assert not passes("colour_binding", scene, saw(at("cat", tint="red"), at("dog", tint="red")))
    assert not passes("colour_binding", scene, saw(at("cat", tint="red")))


@pytest.mark.parametrize(
    ("relation", "x", "y"), [("left of", 0.2, 0.5), ("right of", 0.8, 0.5), ("above", 0.5, 0.2), ("below", 0.5, 0.8)]
)
def test_position(relation: str, x: float, y: float) -> None:
    scene = Scene((Thing("cat"), Thing("dog")), "blue", relation)  # type: ignore[arg-type]
    assert passes("position", scene, saw(at("cat", x, y), at("dog")))
    assert not passes("position", scene, saw(at("dog", x, y), at("cat")))
    assert not passes("position", scene, saw(at("cat", 1 - x, 1 - y), at("dog")))
    assert not passes("position", scene, saw(at("cat", y, x), at("dog")))  # apart along the other axis
    assert not passes("position", scene, saw(at("cat", 0.5 + (x - 0.5) / 6, 0.5 + (y - 0.5) / 6), at("dog")))
    assert not passes("position", scene, saw(at("cat", x, y)))


def test_background() -> None:
    assert passes("background", CAT, saw())
    assert not passes("background", CAT, saw(at("cat"), background="cyan"))
    assert not passes("background", CAT, saw(at("cat"), background=None))


def test_unknown_task_and_unfit_scene_are_errors() -> None:
    with pytest.raises(UserError, match="beauty"):
        judged("beauty", CAT, saw(), TWINS)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="position"):
        judged("position", CAT_AND_DOG, saw(), TWINS)
