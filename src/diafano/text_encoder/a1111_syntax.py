r"""What a prompt says beside its words: A1111's syntax, read as literally as A1111 reads it; nothing is ever an error.

    prompt    := part (" AND " part [":" number])*      pictures of several prompts at once (`composition`)
    part      := (edit | swap | emphasis | plain)*
    edit      := "[" [before] ":" after ":" when "]"     another text from a step on (`at_steps`)
    swap      := "[" text ("|" text)+ "]"                one after the other, step by step (`at_steps`)
    emphasis  := "(" text ")" | "(" text ":" number ")" | "[" text "]"    (`weighted`)
    plain     := any characters; "\" before "(", ")", "[", "]" takes their meaning away

Read in this order: the prompt falls into parts at AND, a part is one text for each step, and each such text is a list
of pieces with weights. A bracket that nothing closes, or that closes nothing, is taken as A1111 takes it.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

ROUND, SQUARE = 1.1, 1 / 1.1
"""What a pair of brackets without a number multiplies the weight of its words with."""
DEEPEST = 100
"""Edits and swaps inside more brackets than this are taken as plain text."""

_TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"^((?:\s|.)*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$")
_WHEN = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*")


@dataclass(frozen=True)
class Piece:
    """Words of one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """One prompt of a composition."""

    text: str
    weight: float = 1.0


def composition(prompt: str) -> list[Part]:
    """The prompts between the ANDs, each with the number after its last colon as weight (1 if there is none).

    A prompt without AND is one part as it stands, whatever numbers it has.
    """
    texts = _AND.split(prompt)
    if len(texts) == 1:
        return [Part(prompt)]
    parts = []
    for text in texts:
        match = _AND_WEIGHT.match(text)
        words, weight = match.groups() if match else (text, None)
        parts.append(Part(words, 1.0 if weight is None else float(weight)))
    return parts


def weighted(text: str) -> list[list[Piece]]:
    """The text's pieces with their weights, a list for each stretch between BREAKs; never empty.

    >>> weighted("a (big:1.3) [old] house")
    [[Piece(text='a ', weight=1.0), Piece(text='big', weight=1.3), ...]]
    """
    pieces: list[tuple[str | None, float]] = []  # None stands for BREAK
    open_round: list[int] = []
    open_square: list[int] = []

    def multiply(first: int, factor: float) -> None:
        pieces[first:] = [(words, weight * factor) for words, weight in pieces[first:]]

    for match in _TOKEN.finditer(text):
        token, number = match.group(), match.group(1)
        if token.startswith("\\"):
            pieces.append((token[1:], 1.0))
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
                    pieces.append((None, 1.0))
                pieces.append((words, 1.0))
    for first in open_round:
        multiply(first, ROUND)
    for first in open_square:
        multiply(first, SQUARE)
    return _stretches(pieces)


def _stretches(pieces: list[tuple[str | None, float]]) -> list[list[Piece]]:
    """Neighbours of one weight joined, empty ones left out, and cut at BREAK."""
    stretches: list[list[Piece]] = [[]]
    for words, weight in pieces:
        last = stretches[-1]
        if words is None:
            stretches.append([])
        elif words and last and last[-1].weight == weight:
            last[-1] = Piece(last[-1].text + words, weight)
        elif words:
            last.append(Piece(words, weight))
    return [stretch or [Piece("")] for stretch in stretches]


def at_steps(text: str, steps: int, before: int = 0) -> list[str]:
    """The text of each step, from the first to the last: edits and swaps are carried out, emphasis stays as it is.

    ``[a:b:0.5]`` is a for the first half of the steps, ``[a:b:10]`` for the first 10, then b; ``[b:10]`` adds and
    ``[a::10]`` takes away. ``[a|b]`` is a in the first step, b in the second, and so on.

    In a second pass, which comes after so many steps `before`, whole numbers go on counting and shares lie from 1 to
    2, as in A1111: ``[a:b:0.5]`` is b in all of it.
    """
    if "[" not in text:
        return [text] * steps
    tree = _parse(text, 0, len(text), _partners(text))
    return ["".join(_spoken(node, step, steps, before) for node in tree) for step in range(1, steps + 1)]


@dataclass(frozen=True)
class _Edit:
    before: "_Nodes"
    after: "_Nodes"
    when: str


@dataclass(frozen=True)
class _Swap:
    choices: "tuple[_Nodes, ...]"


_Nodes = tuple["str | _Edit | _Swap", ...]


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


def _parse(text: str, start: int, end: int, partners: dict[int, int]) -> _Nodes:
    """The nodes of ``text[start:end]``."""
    nodes: list[str | _Edit | _Swap] = []
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


def _square(text: str, start: int, end: int, partners: dict[int, int]) -> _Nodes:
    """What stands from the "[" at `start` to the "]" at `end`: an edit, a swap, or its text with the brackets."""
    for separator in "|:":
        ends = [start, *_outside_brackets(text, separator, start + 1, end, partners), end]
        if len(ends) == 2:
            continue
        if separator == "|":
            return (_Swap(tuple(_parse(text, a + 1, b, partners) for a, b in pairwise(ends))),)
        when = text[ends[-2] + 1 : end]
        if len(ends) in (3, 4) and _WHEN.fullmatch(when):
            before, after = ((start, start), *pairwise(ends))[-3:-1]
            return (
                _Edit(
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


def _spoken(node: str | _Edit | _Swap, step: int, steps: int, before: int) -> str:
    """The text of a node in that step, from 1, of a pass after so many steps before."""
    if isinstance(node, str):
        return node
    if isinstance(node, _Swap):
        chosen = node.choices[(step - 1) % len(node.choices)]
    else:
        share = float(node.when)
        when = min(steps, int((share - (before > 0)) * steps if "." in node.when else share - before))
        chosen = node.before if step <= when else node.after
    return "".join(_spoken(inner, step, steps, before) for inner in chosen)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
