r"""What a prompt says beside its words in ComfyUI: weights in parentheses and nothing else; nothing is ever an error.

    prompt := (group | plain)*
    group  := "(" prompt ")"                the weight around it times 1.1
            | "(" prompt ":" number ")"     this weight, whatever is around it
    plain  := any characters; "\(" and "\)" are parentheses without a meaning

Square brackets, BREAK, AND and schedules are words. `a1111_syntax` is A1111's reading.
"""

import math
from itertools import groupby, pairwise

from diafano.text_encoder.a1111_syntax import Piece
from diafano.text_encoder.prompt_edits import DEEPEST

ROUND = 1.1
"""What parentheses without a number multiply the weight around them with."""

_CLOSE, _OPEN = "\0\1", "\0\2"  # stand for the escaped ones, as in ComfyUI


def weighted(text: str) -> list[Piece]:
    """The text's pieces with their weights; never empty. Neighbours of one weight stay apart, as ComfyUI has them.

    >>> weighted("a (big (red:1.3)) [old] house")
    [Piece(text='a ', weight=1.0), Piece(text='big ', weight=1.1), Piece(text='red', weight=1.3), ...]
    """
    hidden = text.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    pieces = [Piece(_shown(words), weight) for words, weight in _weighted(hidden, 1.0, DEEPEST)]
    return pieces or [Piece("")]


def _shown(text: str) -> str:
    return text.replace(_CLOSE, ")").replace(_OPEN, "(")


def _weighted(text: str, around: float, deepest: int) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for item in _items(text):
        if deepest == 0 or len(item) < 2 or item[0] != "(" or item[-1] != ")":
            found.append((item, around))
            continue
        inner, weight = item[1:-1], around * ROUND
        words, colon, number = inner.rpartition(":")
        if colon and words and (said := _number(number)) is not None:
            inner, weight = words, said
        found += _weighted(inner, weight, deepest - 1)
    return found


def _items(text: str) -> list[str]:
    """The text cut before each "(" and behind each ")" of the outermost pairs.

    The level is counted as ComfyUI counts it: a ")" that closes nothing takes the meaning of the next "(".
    """
    cuts = [0]
    level = 0
    for at, letter in enumerate(text):
        if letter == "(":
            if level == 0:
                cuts.append(at)
            level += 1
        elif letter == ")":
            level -= 1
            if level == 0:
                cuts.append(at + 1)
    places = [place for place, _ in groupby([*cuts, len(text)])]
    return [text[start:end] for start, end in pairwise(places)]


def _number(text: str) -> float | None:
    """What Python reads as a number, as ComfyUI does; but infinities and NaN, which spoil a picture, are words."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
