"""What varies: settings and their values, prompts from a file, and all combinations."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diafano.errors import UserError
from diafano.jobs.experiment.axes import Axis, cells_of, read_axis, read_prompts
from diafano.request.request import Settings


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("steps=10,20,50", "steps", [10, 20, 50]),
        ("Steps = 10, 20", "steps", [10, 20]),
        ("guidance=3,7:1", "guidance", ["3", "7:1"]),
        ("guidance-rescale=0,0.5", "guidance_rescale", [0.0, 0.5]),
        ("clip-skip=1,2", "clip_skip", [1, 2]),
        ("sampler=DPM++ 2M,ddim", "sampler", ["DPM++ 2M", "ddim"]),
        ("size=64x64,128x64", "size", ["64x64", "128x64"]),
        ("invert_mask=yes,no", "invert_mask", [True, False]),
        ('negative=["a, b", ""]', "negative", ["a, b", ""]),
        ('guidance_interval=["0,1", [0.2, 0.8]]', "guidance_interval", ["0,1", [0.2, 0.8]]),
        ('prompt=["a fox", "a cat"]', "prompt", ["a fox", "a cat"]),
        ("seed=7", "seed", [7]),
        ("steps=ten", "steps", ["ten"]),
    ],
)
def test_an_axis(text: str, name: str, values: list[Any]) -> None:
    axis = read_axis(text)
    assert axis.name == name
    assert [dict(value) for value in axis.values] == [{name: value} for value in values]


def test_labels() -> None:
    assert read_axis("guidance-rescale=0,0.5").labels == ("0", "0.5")
    assert read_axis('guidance_interval=["0,1", [0.2, 0.8]]').labels == ("0,1", "0.2,0.8")


def test_every_setting_of_one_picture_can_vary() -> None:
    for name in Settings.__annotations__:
        if name not in ("count", "batch_size", "batch_position"):
            assert read_axis(f"{name}=1").name == name


@pytest.mark.parametrize(
    "wrong",
    ["stepz=1,2", "count=1,2", "steps", "steps=", "=1", "", "steps=[1", "steps=[]", "steps=10,20,10", "seed=[1]x"],
)
def test_a_wrong_axis_is_one_sentence(wrong: str) -> None:
    with pytest.raises(UserError) as error:
        read_axis(wrong)
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_an_axis_or_a_sentence(text: str) -> None:
    for given_ in (text, f"steps={text}", f"prompt=[{text}]"):
        try:
            assert read_axis(given_).values
        except UserError as error:
            assert str(error)


# ---- all combinations


def axis(name: str, count: int) -> Axis:
    return read_axis(f"{name}={','.join(map(str, range(1, count + 1)))}")


def test_the_first_axis_is_the_fastest() -> None:
    cells = cells_of([axis("steps", 2), axis("seed", 3)])
    assert [cell.place for cell in cells] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert [dict(cell.settings) for cell in cells][:3] == [
        {"steps": 1, "seed": 1},
        {"steps": 2, "seed": 1},
        {"steps": 1, "seed": 2},
    ]
    assert cells[3].labels == ("2", "2")


@pytest.mark.parametrize(
    "axes",
    [
        [axis("steps", 2)] * 2,
        [axis("steps", 2), axis("seed", 2), axis("eta", 2), axis("clip_skip", 2)],
        [axis("steps", 200), axis("seed", 200)],
    ],
)
def test_impossible_combinations_are_one_sentence(axes: list[Axis]) -> None:
    with pytest.raises(UserError) as error:
        cells_of(axes)
    assert "\n" not in str(error.value)


# ---- prompts from a file


def test_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\ufeffa fox\n\n  a (cat:1.2), [x]  \r\nä # 蘋果\n", encoding="utf-8")
    assert read_prompts(path).labels == ("a fox", "a (cat:1.2), [x]", "ä # 蘋果")


def test_settings_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [{"prompt": "a fox", "steps": 3, "size": [64, 64]}, {"prompt": "a cat", "negative": "x, y"}]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = read_prompts(path)
    assert list(found.values) == lines and found.labels == ("a fox", "a cat")
    with pytest.raises(UserError, match="steps varies twice"):
        cells_of([axis("steps", 2), found])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no prompts"),
        (b"\n \n", "has no prompts"),
        (b"\xff\xfe", "no UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": }', "line 2 of .* is no JSON object"),
        (b'{"prompt": "a"}\n[1]', 'line 2 of .* has no "prompt"'),
        (b'{"steps": 3}', 'line 1 of .* has no "prompt"'),
        (b'{"prompt": 3}', 'has no "prompt"'),
        (b'{"prompt": "a", "stepz": 3}', "has 'stepz', which is no setting"),
        (b'{"prompt": "a", "count": 3}', "has 'count', which is no setting"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_prompts(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "p.txt")
