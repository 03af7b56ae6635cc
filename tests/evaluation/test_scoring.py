"""From prompts to a score: a model that draws truly gets all of it, one that draws nothing gets next to none."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from diafano.errors import UserError
from diafano.evaluation.accuracy import Accuracy
from diafano.evaluation.gallery import gallery, wrapped
from diafano.evaluation.judge import Judge, Sighting
from diafano.evaluation.scoring import JudgedPrompt, Prompt, Result, evaluate, held_out_prompts
from diafano.training.data.emoji.colours import COLOURS
from diafano.training.data.emoji.scene_sampler import TASKS, held_out_combinations
from diafano.training.data.emoji.scenes import Scene, render
from diafano.training.data.emoji.sprites import Sprites

PROMPTS = 70


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.shipped()


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    return Sprites.shipped()


class Draughtsman:
    """Draws what a prompt says, exactly."""

    def __init__(self, judge: Judge, sprites: Sprites, edge: int = 64) -> None:
        self.scenes = {prompt.text: prompt.scene for prompt in held_out_prompts(judge.objects, PROMPTS, 0)}
        self.sprites, self.edge = sprites, edge
        self.asked: list[tuple[str, int | None, int | None]] = []

    def generate(
        self,
        prompt: str,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        seed: int | None = None,
    ) -> Sequence[Image.Image]:
        self.asked.append((prompt, steps, seed))
        return [self.picture(self.scenes[prompt], 0 if seed is None else seed)]

    def picture(self, scene: Scene, seed: int) -> Image.Image:
        return Image.fromarray(render(scene, self.sprites, self.edge, np.random.default_rng(seed)).pixels)


class Blank(Draughtsman):
    """Always white paper."""

    def picture(self, scene: Scene, seed: int) -> Image.Image:
        return Image.new("RGB", (self.edge, self.edge), "white")


class Painter(Draughtsman):
    """The right background, and nothing on it."""

    def picture(self, scene: Scene, seed: int) -> Image.Image:
        return Image.new("RGB", (self.edge, self.edge), COLOURS[scene.background])


@pytest.fixture(scope="module")
def perfect(judge: Judge, sprites: Sprites) -> Result:
    return evaluate(Draughtsman(judge, sprites), judge, sprites, prompts=PROMPTS, judge_scenes=20)


def test_true_pictures_pass(perfect: Result) -> None:
    assert perfect.overall is not None and perfect.overall >= 0.97
    assert set(perfect.tasks) == set(TASKS)


def test_true_pictures_at_another_size_pass(judge: Judge, sprites: Sprites) -> None:
    result = evaluate(Draughtsman(judge, sprites, 128), judge, sprites, prompts=PROMPTS, judge_scenes=10)
    assert sum(one.passed for one in result.prompts) >= 0.95 * PROMPTS


def test_blank_pictures_fail(judge: Judge, sprites: Sprites) -> None:
    result = evaluate(Blank(judge, sprites), judge, sprites, prompts=PROMPTS, judge_scenes=10)
    for task, score in result.tasks.items():
        assert score == (0 if task != "background" else pytest.approx(0.1, abs=0.15)), task


def test_a_bare_background_passes_for_a_background_only(judge: Judge, sprites: Sprites) -> None:
    tasks = evaluate(Painter(judge, sprites), judge, sprites, prompts=PROMPTS, judge_scenes=10).tasks
    assert tasks.pop("background") == 1.0
    assert set(tasks.values()) == {0.0}


def test_json_has_what_it_says(perfect: Result) -> None:
    content = json.loads(json.dumps(perfect.as_json(), allow_nan=False))
    assert list(content) == ["overall", "frechet", "exchanged_names", "tasks", "judge", "prompts"]
    assert 0 < content["frechet"] == perfect.frechet
    assert content["exchanged_names"] == [], "a draughtsman has no network to ask"
    assert content["overall"] == pytest.approx(perfect.overall)
    assert list(content["tasks"]) == list(content["judge"]) == list(TASKS)
    for task in TASKS:
        assert content["tasks"][task] == {"score": perfect.tasks[task], "count": PROMPTS // len(TASKS)}
        row = content["judge"][task]
        assert set(row) == {"accuracy", "accepts", "rejects", "scenes", "counted"}
        assert row["scenes"] == 20 and row["counted"] is perfect.judge[task].counted
    assert len(content["prompts"]) == PROMPTS
    first = content["prompts"][0]
    assert set(first) == {"task", "prompt", "seed", "passed", "found", "why"}
    assert first["task"] == "single_object" and first["seed"] == 0
    assert set(first["found"]) == {"objects", "background"}
    assert set(first["found"]["objects"][0]) == {"name", "tint", "x", "y", "score"}


def test_settings_and_seeds_reach_the_model(judge: Judge, sprites: Sprites) -> None:
    model = Draughtsman(judge, sprites)
    calls: list[None] = []
    evaluate(
        model,
        judge,
        sprites,
        prompts=9,
        settings={"steps": 7},
        judge_scenes=2,
        on_picture=lambda: calls.append(None),
    )
    assert [(steps, seed) for _, steps, seed in model.asked] == [(7, number) for number in range(9)]
    assert len(calls) == 9


def test_prompts_are_held_out_even_and_repeatable(judge: Judge) -> None:
    prompts = list(held_out_prompts(judge.objects, 210, 3))
    assert prompts == list(held_out_prompts(judge.objects, 210, 3))
    assert prompts != list(held_out_prompts(judge.objects, 210, 4))
    assert {sum(one.task == task for one in prompts) for task in TASKS} == {30}
    assert len({(one.task, one.text) for one in prompts}) == 210
    assert all(held_out_combinations(one.scene) for one in prompts)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-5, 0), (10, -1)])
def test_impossible_numbers_are_errors(judge: Judge, count: int, seed: int) -> None:
    with pytest.raises(UserError, match=str(min(count, seed))):
        list(held_out_prompts(judge.objects, count, seed))


def made(passes: dict[str, list[bool]], untrusted: str | None = None) -> Result:
    prompts = {one.task: one for one in held_out_prompts(("cat", "dog", "fox", "car", "key", "sun", "bee"), 7, 0)}
    blank = Image.new("RGB", (64, 64))
    rows = [
        JudgedPrompt(prompts[task], passed, "" if passed else "no cat", Sighting((), None), blank)  # type: ignore[index]
        for task, ones in passes.items()
        for passed in ones
    ]
    trust = {task: Accuracy(1.0, 0.5 if task == untrusted else 1.0, 10) for task in TASKS}
    return Result(tuple(rows), trust)


def test_overall_is_the_mean_of_counted_tasks() -> None:
    passes = {"counting": [True, False], "colour": [True, True, True], "position": [False] * 10}
    assert made(passes).overall == pytest.approx(0.5)
    assert made(passes, untrusted="position").overall == pytest.approx(0.75)
    assert "too low, not counted" in made(passes, untrusted="position").table()
    assert made({"counting": [True]}, untrusted="counting").overall is None


def test_the_table_names_every_task() -> None:
    table = made({"counting": [True, False], "colour": [True]}).table()
    assert "counting" in table and "1/2" in table and "0.500" in table
    assert table.splitlines()[-1].split()[:2] == ["overall", "0.750"]


def test_the_sheet_marks_passes_and_failures() -> None:
    sheet = gallery(made({"counting": [True, False], "colour": [True]}), columns=2)
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert {(22, 140, 60), (208, 32, 40)} <= colours
    one_row = gallery(made({"counting": [True, False]}), columns=2)
    assert sheet.width == one_row.width and sheet.height > one_row.height


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (512, 512), (768, 512)])
def test_pictures_of_any_size_fit_the_sheet(size: tuple[int, int]) -> None:
    prompt = next(held_out_prompts(("cat", "dog", "fox", "car", "key", "sun", "bee"), 1, 0))
    row = JudgedPrompt(prompt, True, "", Sighting((), None), Image.new("RGB", size, "magenta"))
    sheet = gallery(Result((row,), {task: Accuracy(1, 1, 1) for task in TASKS}), columns=1)
    shown = sum(count for count, colour in sheet.getcolors(1 << 20) or [] if colour == (255, 0, 255))
    assert shown == 128 * round(128 * size[1] / size[0])


def test_long_prompts_are_wrapped() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=11)
    lines = wrapped("a purple watermelon to the left of a pink umbrella on a yellow background", font, 130)
    assert len(lines) > 1 and all(font.getlength(line) <= 130 for line in lines)
    assert " ".join(lines).startswith("a purple watermelon to the left")
    assert wrapped("", font, 130) == []


def test_prompt_is_comparable() -> None:
    one = next(held_out_prompts(("cat", "dog", "fox", "car", "key", "sun", "bee"), 1, 0))
    assert one == Prompt(one.task, one.scene, one.text, one.seed)


def test_prompts_are_about_the_models_objects_and_the_judge_must_know_them(judge: Judge, sprites: Sprites) -> None:
    few = ("cat", "dog", "star", "car", "tree", "apple", "penguin", "house", "key", "robot", "heart", "ghost")
    asked = list(held_out_prompts(few, 28, 0))
    assert {thing.name for prompt in asked for thing in prompt.scene.things} <= set(few)
    with pytest.raises(UserError, match="does not know the object 'sled'"):
        evaluate(Blank(judge, sprites), judge, sprites, prompts=7, objects=("cat", "sled"), judge_scenes=5)
