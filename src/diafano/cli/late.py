"""Commands whose code is imported when somebody asks for them: `diafano --help` needs a list of them, no more."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


class LateCommands(Mapping[str, TyperCommand]):
    """By name: each is made of the function `command` in the module of its name beside this one."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in self.names:
            raise KeyError(name)
        from diafano.cli.panels import InPanels, typed_command

        only = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        function = typed_command(import_module(f"diafano.cli.{name}").command)
        only.command(name, cls=InPanels, short_help=self.names[name])(function)
        made: Any = typer.main.get_command(only)
        return made  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class LateGroup(TyperGroup):
    """A group of such commands, listed by topic."""

    topics: ClassVar[Mapping[str, Mapping[str, str]]]
    """Topic -> command -> what the list of commands says of it."""

    @classmethod
    def names(cls) -> dict[str, str]:
        """Command -> what the list of commands says of it."""
        return {name: said for commands in cls.topics.values() for name, said in commands.items()}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = LateCommands(self.names())

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.names()))
        for topic, commands in self.topics.items():
            with formatter.section(topic):
                formatter.write_dl([(name.ljust(width), said) for name, said in commands.items()])
