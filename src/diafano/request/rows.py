"""What a row of the table of settings (`request.settings`) says, besides the setting's name, type and bounds.

A row is a field of a `Group`. Whatever has settings (the command line, a picture's text, the typed keyword arguments,
docs/settings.md) is made from the rows.
"""

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class TextKey:
    """How the text of a picture has a setting, in A1111's wording: ``key: value``."""

    key: str
    read: Callable[[str], Any] | None = None
    """From what stands there to a value of the setting; None: by its type. Raises ValueError for what is no number,
    KeyError for what is unknown here."""
    write: Callable[[Any], object] = lambda value: value
    """From the setting's value to what stands there; None: nothing does."""
    when: Callable[[Any], bool] | None = None
    """Whether a group of settings writes it; None: unless it has the value that it has when nobody says otherwise."""


@dataclass(frozen=True)
class Setting:
    """A row's words. As pydantic wants it, it is called to complete the field's JSON schema."""

    help: str
    """Its sentences on the command line and in docs/settings.md."""
    metavar: str | None
    """What stands for the value there; None: it is a switch."""
    given: Any
    """The type of what may be given, where that is wider than the type of what is kept."""
    texts: tuple[TextKey, ...]
    """Each is written where it says so, and each that a picture has is read: the last one holds."""
    api: tuple[str, ...]
    """What A1111's API (txt2img, img2img) calls it; several where they share what it says."""
    option: bool
    """Whether the command line has it."""

    def __call__(self, schema: dict[str, Any]) -> None:
        schema["description"] = self.help


def setting(
    help: str,
    metavar: str | None = None,
    *,
    default: Any = None,
    given: Any = None,
    text: str | TextKey | tuple[TextKey, ...] = (),
    api: str | tuple[str, ...] = (),
    option: bool = True,
) -> Any:
    """The right side of a row, see `Setting`. A `default` of ``...``: the model's card or chance fills it in."""
    texts = (TextKey(text),) if isinstance(text, str) else (text,) if isinstance(text, TextKey) else text
    said = Setting(help, metavar, given, texts, (api,) if isinstance(api, str) else api, option)
    return Field(default, json_schema_extra=said)


class Group(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str]
    """Over them, on the command line and in docs/settings.md."""
    picture: ClassVar[bool | None] = None
    """True: only for drawing over a picture. False: only from text alone. None: for both."""

    @model_validator(mode="before")
    @classmethod
    def _numbers_of_any_library(cls, said: object) -> object:
        """Those of numpy, from a loop over an array say, are as good as Python's own."""
        return {name: _plain(value) for name, value in said.items()} if isinstance(said, dict) else said


def _plain(value: object) -> object:
    """A number of another library, alone or in a tuple or list, as Python's own; everything else as it is."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


@dataclass(frozen=True)
class Row:
    """A setting as others ask for it."""

    name: str
    group: type[Group]
    info: FieldInfo
    setting: Setting

    @property
    def types(self) -> tuple[Any, ...]:
        """What may be given, besides None."""
        given = self.info.annotation if self.setting.given is None else self.setting.given
        members = get_args(given) if get_origin(given) in (UnionType, Union) else (given,)
        return tuple(kind for kind in members if kind is not NoneType)

    @property
    def typed(self) -> type:
        """What a word is read as: on a command line, in a picture's text."""
        return str if str in self.types else next((kind for kind in (bool, int, float) if kind in self.types), str)

    def read(self, text: TextKey, said: str) -> Any:
        """The value that stands in a picture's text. Raises ValueError or KeyError, see `TextKey.read`."""
        return self.typed(said) if text.read is None else text.read(said)


def rows_of(groups: Iterable[type[Group]]) -> dict[str, Row]:
    """The rows of the groups, by the settings' names, in their order."""

    def found() -> Iterator[Row]:
        for group in groups:
            for name, info in group.model_fields.items():
                assert isinstance(info.json_schema_extra, Setting), f"{name} is no row: make it one by `setting`"
                yield Row(name, group, info, info.json_schema_extra)

    return {row.name: row for row in found()}


def written(said: Group, rows: Mapping[str, Row]) -> dict[str, object]:
    """What a picture's text says of the settings of a group, by its keys, in the order of the rows."""
    found: dict[str, object] = {}
    for name, row in rows.items():
        if name not in type(said).model_fields:
            continue
        value = getattr(said, name)
        for text in row.setting.texts:
            if value != row.info.default if text.when is None else text.when(said):
                what = text.write(value)
                if what is not None:
                    found.setdefault(text.key, what)
    return found
