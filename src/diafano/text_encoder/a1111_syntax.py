r"""What a prompt says beside its words, in A1111's syntax; nothing is ever an error.

    prompt    := part (" AND " part [":" number])*      pictures of several prompts at once (`composition`)
    part      := (edit | swap | emphasis | plain)*
    edit      := "[" [before] ":" after ":" when "]"     another text from a step on (`at_steps`)
    swap      := "[" text ("|" text)+ "]"                one after the other, step by step (`at_steps`)
    emphasis  := "(" text ")" | "(" text ":" number ")" | "[" text "]"    (`weighted`)
    plain     := any characters; "\" before "(", ")", "[", "]" takes their meaning away

Read in this order: the prompt falls into parts at AND, a part is one text for each step, and each such text is a list
of pieces with weights. A bracket that nothing closes, or that closes nothing, is taken as A1111 takes it.

`exact` reads all prompts as A1111 does. Otherwise a few are read as their authors mean them, which A1111 takes amiss:

                                        A1111                             otherwise
    a bar outside brackets              makes all edits plain text        is a letter
    letters behind an edit, [a:b:1]::   may make it plain text            leave it an edit
    a number behind a prompt alone      is its weight ("a cat:0" is      is text
                                        drawn as the negative prompt)
    BREAK inside brackets               is a word of negative weight      begins a new chunk
    a BREAK at the end                  says nothing                      begins an empty chunk
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from diafano.text_encoder.a1111_grammar import nodes_of
from diafano.text_encoder.prompt_edits import DEEPEST, NUMBER, Edit, Nodes, Swap, spoken

ROUND, SQUARE = 1.1, 1 / 1.1
"""What a pair of brackets without a number multiplies the weight of its words with."""

_TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"^((?:\s|.)*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$")
_WHEN = re.compile(rf"\s*{NUMBER}\s*")


@dataclass(frozen=True)
class Piece:
    """Words of one weight."""

    text: str
    weight: float = 1.0


BREAK = Piece("BREAK", -1.0)
"""Stands where a new chunk begins."""


@dataclass(frozen=True)
class Part:
    """One prompt of a composition."""

    text: str
    weight: float = 1.0


def composition(prompt: str, *, exact: bool = False) -> list[Part]:
    """The prompts between the ANDs, each with the number after its last colon as weight (1 if there is none).

    A prompt without AND is one part as it stands, whatever numbers it has, unless it is read as A1111 does.
    """
    texts = _AND.split(prompt)
    if len(texts) == 1 and not exact:
        return [Part(prompt)]
    parts = []
    for text in texts:
        match = _AND_WEIGHT.match(text)
        words, weight = match.groups() if match else (text, None)
        parts.append(Part(words, 1.0 if weight is None else float(weight)))
    return parts


def weighted(text: str, *, exact: bool = False) -> list[list[Piece]]:
    """The text's pieces with their weights, a list for each stretch between BREAKs; never empty.

    >>> weighted("a (big:1.3) [old] house")
    [[Piece(text='a ', weight=1.0), Piece(text='big', weight=1.3), ...]]
    """
    stretches: list[list[Piece]] = [[]]
    for piece in a1111_pieces(text) if exact else _pieces(text):
        if piece is BREAK or (exact and piece == BREAK):
            stretches.append([])
        elif piece.text and stretches[-1] and stretches[-1][-1].weight == piece.weight:
            stretches[-1][-1] = Piece(stretches[-1][-1].text + piece.text, piece.weight)
        elif piece.text:
            stretches[-1].append(piece)
    return [stretch or [Piece("")] for stretch in stretches]


def a1111_pieces(text: str) -> list[Piece]:
    """The text's pieces as A1111 has them, neighbours of one weight joined; `BREAK` where a new chunk begins.

    Inside brackets a BREAK is multiplied like any word, and then it is one: what begins a chunk has the weight -1.
    """
    joined: list[Piece] = []
    for piece in _pieces(text, multiplied_break=True):
        if joined and joined[-1].weight == piece.weight:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.weight)
        else:
            joined.append(piece)
    return joined or [Piece("")]


def _pieces(text: str, *, multiplied_break: bool = False) -> list[Piece]:
    """The text's pieces, one a token; `BREAK` keeps its weight unless it is multiplied like all others."""
    pieces: list[Piece] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def multiply(first: int, factor: float) -> None:
        pieces[first:] = [
            piece if piece is BREAK and not multiplied_break else Piece(piece.text, piece.weight * factor)
            for piece in pieces[first:]
        ]

    for match in _TOKEN.finditer(text):
        token, number = match.group(), match.group(1)
        if token.startswith("\\"):
            pieces.append(Piece(token[1:]))
        elif token == "(":
            open_round.append(len(pieces))
        elif token == "[":
            open_square.append(len(pieces))
        elif number is not None and open_round and _is_number(number):
            multiply(open_round.pop(), float(number))
        elif token == ")" and open_round:
            multiply(open_round.pop(), ROUND)
        elif token == "]" and open_square:
            multiply(open_square.pop(), SQUARE)
        else:
            for index, words in enumerate(_BREAK.split(token)):
                if index > 0:
                    pieces.append(BREAK)
                pieces.append(Piece(words))
    for first in open_round:
        multiply(first, ROUND)
    for first in open_square:
        multiply(first, SQUARE)
    return pieces


def at_steps(text: str, steps: int, before: int = 0, *, exact: bool = False) -> list[str]:
    """The text of each step, from the first to the last: edits and swaps are carried out, emphasis stays as it is.

    ``[a:b:0.5]`` is a for the first half of the steps, ``[a:b:10]`` for the first 10, then b; ``[b:10]`` adds and
    ``[a::10]`` takes away. ``[a|b]`` is a in the first step, b in the second, and so on.

    In a second pass, which comes after so many steps `before`, whole numbers go on counting and shares lie from 1 to
    2, as in A1111: ``[a:b:0.5]`` is b in all of it.
    """
    if "[" not in text:
        return [text] * steps
    tree = nodes_of(text) if exact else _parse(text, 0, len(text), _partners(text))
    if tree is None:
        return [text] * steps
    return ["".join(spoken(node, step, steps, before) for node in tree) for step in range(1, steps + 1)]


def _partners(text: str) -> dict[int, int]:
    """Where each bracket that is closed is closed; of those that cross, the one that is closed first counts."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    escaped = False
    for at, letter in enumerate(text):
        if escaped or letter == "\\":
            escaped = not escaped
        elif letter in "([":
            opened.append(at)
        elif letter in ")]":
            wanted = "(" if letter == ")" else "["
            while opened and wanted in (text[one] for one in opened):
                if text[last := opened.pop()] == wanted:
                    if len(opened) < DEEPEST:
                        partners[last] = at
                    break
    return partners


def _parse(text: str, start: int, end: int, partners: dict[int, int]) -> Nodes:
    """The nodes of ``text[start:end]``."""
    nodes: list[str | Edit | Swap] = []
    at = start
    while at < end:
        close = partners.get(at)
        if text[at] == "[" and close is not None:
            nodes += _square(text, at, close, partners)
            at = close + 1
        else:
            length = 2 if text[at] == "\\" else 1
            nodes.append(text[at : at + length])
            at += length
    return tuple(nodes)


def _square(text: str, start: int, end: int, partners: dict[int, int]) -> Nodes:
    """What stands from the "[" at `start` to the "]" at `end`: an edit, a swap, or its text with the brackets."""
    for separator in "|:":
        ends = [start, *_outside_brackets(text, separator, start + 1, end, partners), end]
        if len(ends) == 2:
            continue
        if separator == "|":
            return (Swap(tuple(_parse(text, a + 1, b, partners) for a, b in pairwise(ends))),)
        when = text[ends[-2] + 1 : end]
        if len(ends) in (3, 4) and _WHEN.fullmatch(when):
            before, after = ((start, start), *pairwise(ends))[-3:-1]
            return (
                Edit(
                    _parse(text, before[0] + 1, before[1], partners),
                    _parse(text, after[0] + 1, after[1], partners),
                    when.strip(),
                ),
            )
    return ("[", *_parse(text, start + 1, end, partners), "]")


def _outside_brackets(text: str, wanted: str, start: int, end: int, partners: dict[int, int]) -> list[int]:
    """Where `wanted` stands in ``text[start:end]`` outside of all brackets."""
    found: list[int] = []
    at = start
    while at < end:
        if text[at] == wanted:
            found.append(at)
        at = partners.get(at, at + (text[at] == "\\")) + 1
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
