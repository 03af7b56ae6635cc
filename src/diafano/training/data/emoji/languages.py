"""The languages that scenes are described in."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from diafano.training.data.emoji.grammar import EnglishGrammar, Grammar
from diafano.training.data.emoji.italian import ItalianGrammar

Language = Literal["en", "it"]
GRAMMARS: dict[Language, Callable[[], Grammar]] = {"en": EnglishGrammar, "it": ItalianGrammar}


def languages_of(named: Sequence[str]) -> tuple[Language, ...]:
    """Those of these names that there are; a card may name others."""
    return tuple(cast(Language, name) for name in named if name in GRAMMARS)
