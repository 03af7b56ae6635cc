"""The languages that scenes are described in."""

from collections.abc import Callable
from typing import Literal

from diafano.training.data.emoji.grammar import EnglishGrammar, Grammar
from diafano.training.data.emoji.italian import ItalianGrammar

Language = Literal["en", "it"]
GRAMMARS: dict[Language, Callable[[], Grammar]] = {"en": EnglishGrammar, "it": ItalianGrammar}
