"""A command's options from classes, and in panels; a short help, and one with all of them.

Options that belong together are the fields of a dataclass: what a field's ``Annotated`` says is an option, `title` of
the class stands over them in the command's help. A command takes such objects, not forty arguments; the settings of a
request are a parameter of the type `Settings`, whose options come from the table of settings.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints, is_typeddict

import typer
from typer.core import TyperCommand

from diafano.cli.completion import completion

ALL = "diafano.cli.help_all"
"""Where a command's context keeps that all options are to be shown."""


def _show_all(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta[ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", help="Show all options and exit.", is_eager=True, expose_value=False, callback=_show_all
    ),
]


def setting_option(name: str) -> Any:
    """The option of a setting, for ``Annotated[int | None, setting_option("steps")]``."""
    from diafano.request.settings import SETTINGS

    row = SETTINGS[name]
    plain = name.replace("_", "-")
    undecided = NoneType in get_args(row.info.annotation)  # left out, it is neither yes nor no
    switch = [f"--{plain}/--no-{plain}" if undecided else f"--{plain}"] if row.typed is bool else []
    return typer.Option(*switch, help=row.setting.help, metavar=row.setting.metavar)


def essential(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command with many options: the parameters that its short help has."""

    def marked(function: Callable[..., None]) -> Callable[..., None]:
        function.essential = names  # type: ignore[attr-defined]
        return function

    return marked


def typed_command(function: Callable[..., None]) -> Callable[..., None]:
    """The function with an argument for each option of its dataclasses, as typer reads it."""

    def command(**typed: Any) -> None:
        function(**_packed(function, typed))

    parameters = _by_panel(list(_parameters(function)))
    if hasattr(function, "essential"):
        parameters.append(Parameter("help_all", Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll))
    command.__doc__ = function.__doc__
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.essential = getattr(function, "essential", ())  # type: ignore[attr-defined]
    return command


class _OfTable(Parameter):
    """The argument of a setting."""


def _parameters(owner: Any) -> Iterator[Parameter]:
    """What can be typed for a function or a dataclass."""
    for name, (kind, default) in _fields(owner).items():
        if is_typeddict(kind):
            yield from _settings()
        elif is_dataclass(kind):
            yield from _parameters(kind)
        else:
            taken, option = get_args(kind)
            option = copy.copy(option)
            option.rich_help_panel = option.rich_help_panel or getattr(owner, "title", None)
            option.autocompletion = option.autocompletion or completion(name)
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[taken, option])


def _settings() -> Iterator[Parameter]:
    from diafano.request.settings import SETTINGS

    for name, row in SETTINGS.items():
        if row.setting.option:
            typed: Any = row.typed
            option = setting_option(name)
            option.rich_help_panel = row.group.title
            option.autocompletion = completion(name)
            yield _OfTable(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[typed | None, option])


def _fields(owner: Any) -> dict[str, tuple[Any, Any]]:
    """(annotation, default) of a function's parameters, a dataclass's fields; None is for one that is made anew."""
    hints = get_type_hints(owner, include_extras=True)
    if not is_dataclass(owner):
        return {name: (hints[name], one.default) for name, one in inspect.signature(owner).parameters.items()}
    absent = {one.name: Parameter.empty if one.default_factory is MISSING else None for one in fields(owner)}
    return {
        one.name: (hints[one.name], absent[one.name] if one.default is MISSING else one.default)
        for one in fields(owner)
    }


def _by_panel(parameters: list[Parameter]) -> list[Parameter]:
    """Panel by panel, as they begin; in each, files come before the settings that speak of them."""

    def panel(one: Parameter) -> object:
        return get_args(one.annotation)[1].rich_help_panel

    order = list(dict.fromkeys(map(panel, parameters)))
    return sorted(parameters, key=lambda one: (order.index(panel(one)), isinstance(one, _OfTable)))


def _packed(owner: Any, typed: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, in objects again; what nobody typed is left to their own defaults."""
    found: dict[str, Any] = {}
    for name, (kind, _) in _fields(owner).items():
        if is_typeddict(kind):
            found[name] = {one: typed[one] for one in kind.__annotations__ if one in typed}
        elif isinstance(kind, type) and is_dataclass(kind):
            found[name] = kind(**{one: said for one, said in _packed(kind, typed).items() if said is not None})
        else:
            found[name] = typed[name]
    return found


class InPanels(TyperCommand):
    """A command whose help has its options panel by panel, in plain text: rich takes as long as all the rest.

    Where the command's function says which options matter most (`essential`), `--help` has those alone, and
    `--help-all` all of them.
    """

    @property
    def essential(self) -> tuple[str, ...]:
        return getattr(self.callback, "essential", ())

    def format_options(self, ctx: Any, formatter: Any) -> None:
        short = bool(self.essential) and not ctx.meta.get(ALL)
        panels: dict[str, list[tuple[str, str]]] = {}
        left_out: dict[str, None] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(one, "rich_help_panel", None) or "Options"
            if one.param_type_name == "argument":
                panels.setdefault("Arguments", []).append(record)
            elif not short:
                panels.setdefault(title, []).append(record)
            elif one.name in self.essential or one.name in ("help", "help_all"):
                panels.setdefault("Options", []).append(record)
            elif title != "Options":
                left_out[title] = None
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if short:
            with formatter.section("More, with --help-all"):
                formatter.write_text("; ".join(left_out))
