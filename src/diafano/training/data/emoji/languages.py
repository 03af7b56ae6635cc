"""The languages that scenes are described in."""

from collections.abc import Callable, Sequence
from typing import Literal

from diafano.training.data.emoji.grammar import EnglishGrammar, Grammar
from diafano.training.data.emoji.italian import ItalianGrammar

Language = Literal["en", "it"]
GRAMMARS: dict[Language, Callable[[], Grammar]] = {"en": EnglishGrammar, "it": ItalianGrammar}


def languages_of(named: Sequence[str]) -> tuple[Language, ...]:
    """Those of these names that there are; a card may name others."""
    return tuple(name for name in GRAMMARS if name in named)
