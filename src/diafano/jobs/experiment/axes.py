"""What an experiment varies: settings with the values that each takes, up to three, and prompts from a file."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from diafano.errors import UserError
from diafano.files import lines_of, read_text
from diafano.request.request import Settings

MOST_AXES, MOST_CELLS = 3, 10_000
NOT_VARIED = ("count", "batch_size", "batch_position")
"""Settings that say how many pictures there are; an experiment draws one for each of its cells."""
PROMPT = "prompt"
_JSON = re.compile(r'\s*\{\s*("[^"]*"\s*:|\}\s*$)')
"""How a JSON object begins; a prompt may begin with a brace as well."""


@dataclass(frozen=True)
class Axis:
    """One setting, and what it is on the way along the axis."""

    name: str
    values: tuple[Mapping[str, Any], ...]
    """The settings of each place; more than one where a file of prompts says so. "prompt" counts as a setting."""
    labels: tuple[str, ...]
    """What each place is called."""

    @property
    def settings(self) -> set[str]:
        """The names of all settings that change on it."""
        return {name for value in self.values for name in value}


@dataclass(frozen=True)
class Cell:
    """One picture of the experiment."""

    place: tuple[int, ...]
    """On each axis, the first one first."""
    labels: tuple[str, ...]
    settings: Mapping[str, Any]
    """Those of `Settings`, and "prompt" where that varies."""


def read_axis(text: str) -> Axis:
    """``steps=10,20,50`` -> an axis. Values that have commas are written as JSON: ``negative=["a, b", "c"]``.

    Raises UserError for what is no setting, or has no values. Whether a value is possible is for the request to say.
    """
    name, equals, values = text.partition("=")
    name = name.strip().lower().replace("-", "_")
    possible = [setting for setting in (PROMPT, *Settings.__annotations__) if setting not in NOT_VARIED]
    if name not in possible:
        raise UserError(f"{name!r} cannot be varied: vary one of {', '.join(possible)}, such as steps=10,20,50")
    if not equals or not values.strip():
        raise UserError(f"there are no values to vary {name} over: give them as {name}=A,B,C")
    found = _json_list(values, name) if values.lstrip().startswith("[") else _separated(values, name)
    return axis_of(name, found)


def axis_of(name: str, values: Sequence[Any]) -> Axis:
    """An axis of one setting. Raises UserError for values that are there twice."""
    if not values:
        raise UserError(f"there are no values to vary {name} over: give at least one")
    labels = tuple(_label(value) for value in values)
    twice = next((label for at, label in enumerate(labels) if label in labels[:at]), None)
    if twice is not None:
        raise UserError(f"{name} takes the value {twice!r} twice: leave one of them out")
    return Axis(name, tuple({name: value} for value in values), labels)


def read_prompts(path: Path) -> Axis:
    """A file of prompts as an axis: one a line; or one JSON object a line, with "prompt" and whatever settings it has.

    Empty lines are left out. What the first line is, all are, but a whole JSON object with a prompt is one anywhere.
    Raises UserError, with the line, for what is neither.
    """
    try:
        lines = lines_of(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no UTF-8 text"
        raise UserError(f"the prompts in {str(path)!r} cannot be read: {reason}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise UserError(f"the file {str(path)!r} has no prompts: write one a line")
    all_json = _JSON.match(numbered[0][1]) is not None
    values: list[Mapping[str, Any]] = [
        _json_line(line, f"line {number} of {str(path)!r}")
        if all_json or _is_prompt_in_json(line)
        else {PROMPT: line.strip()}
        for number, line in numbered
    ]
    return Axis(PROMPT, tuple(values), tuple(str(value[PROMPT]) for value in values))


def cells_of(axes: Sequence[Axis]) -> list[Cell]:
    """All combinations, the first axis fastest. Raises UserError for too many axes, or two of one setting."""
    if len(axes) > MOST_AXES:
        raise UserError(f"{len(axes)} settings vary: at most {MOST_AXES} fit into one picture")
    for one, other in itertools.combinations(axes, 2):
        if both := one.settings & other.settings:
            raise UserError(f"{', '.join(sorted(both))} varies twice: leave one of them out")
    sizes = [len(axis.values) for axis in axes]
    places = [place[::-1] for place in itertools.product(*(range(size) for size in reversed(sizes)))]
    if len(places) > MOST_CELLS:
        raise UserError(f"these are {len(places)} pictures: at most {MOST_CELLS} are drawn in one experiment")
    return [Cell(place, *_at(axes, place)) for place in places]


def _at(axes: Sequence[Axis], place: tuple[int, ...]) -> tuple[tuple[str, ...], dict[str, Any]]:
    settings: dict[str, Any] = {}
    for axis, at in zip(axes, place, strict=True):
        settings |= axis.values[at]
    return tuple(axis.labels[at] for axis, at in zip(axes, place, strict=True)), settings


def _json_list(text: str, name: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the values of {name}, {text!r}, are no JSON list: {error}") from None
    return list(found)


def _separated(text: str, name: str) -> list[Any]:
    hint = get_type_hints(Settings).get(name, str)
    kinds = {hint, *get_args(hint)}
    return [_typed(value.strip(), kinds) for value in text.split(",")]


def _typed(text: str, kinds: set[Any]) -> Any:
    """The text as what the setting takes, or as it stands: then the request says what is wrong with it."""
    if bool in kinds and text.lower() in ("true", "false", "yes", "no", "on", "off"):
        return text.lower() in ("true", "yes", "on")
    for kind in (int, float):
        if kind in kinds and str not in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _is_prompt_in_json(line: str) -> bool:
    if _JSON.match(line) is None:
        return False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and PROMPT in found


def _json_line(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON object: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get(PROMPT), str):
        raise UserError(f'{where} has no "prompt": write {{"prompt": "...", "steps": 20}}')
    wrong = [name for name in found if name != PROMPT and (name not in Settings.__annotations__ or name in NOT_VARIED)]
    if wrong:
        raise UserError(f"{where} has {wrong[0]!r}, which is no setting of one picture")
    return found


def _label(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list | tuple):
        return ",".join(map(_label, value))
    return str(value)
