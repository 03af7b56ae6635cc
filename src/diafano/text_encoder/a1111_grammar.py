r"""Which brackets of a prompt A1111 takes for edits and swaps, exactly: also where its grammar gives up.

    start    := (prompt | "[" | "]" | "(" | ")" | ":")*
    prompt   := (emphasis | edit | swap | plain | blanks)*
    emphasis := "(" prompt ")" | "(" prompt ":" prompt ")" | "[" prompt "]"
    edit     := "[" [prompt ":"] prompt ":" [blanks] number [blanks] "]"
    swap     := "[" prompt ("|" [prompt])+ "]"
    plain    := (any but "\", brackets, ":" and "|"; or "\" and any but a line break)+

Inside a prompt each bracket and each colon belongs to one of these, so a pair of brackets is one of them as a whole or
not at all. Outside, the two are stray: letters like any other. A bar or a backslash that fits nowhere is no part of
the grammar: then A1111 takes the whole text as it stands.

That leaves texts with two readings, as an edit's brackets may be stray too. A1111 takes the one that its parser
(lark's, Earley's algorithm) finds first. As a rule that is the edit; where more stray letters follow right behind its
bracket, ``[a:b:0.5]::``, it depends on their number. `_found_first` goes the parser's way, in its order, for these
alone.

Source: A1111 1.10's prompt_parser.py; lark 1.3's earley.py, xearley.py and earley_forest.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diafano.text_encoder.prompt_edits import DEEPEST, NUMBER, Edit, Nodes, Swap

STRAY = "[]():"
MOST_TOKENS = 250
"""In longer texts edits are taken for edits without going the parser's way, whose time grows with the square."""

_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
_WHEN = re.compile(rf"\s*({NUMBER})\s*")


def nodes_of(text: str) -> Nodes | None:
    """The text taken apart; None where the grammar has no reading of it."""
    tokens = _tokens(text)
    if tokens is None:
        return None
    pairs = _pairs(text, tokens)
    if _has_stray_bar(text, tokens, pairs):
        return None
    if not any(pair.depth for pair in pairs.values()):
        return (text,)
    starts = {token.end: token.start for token in tokens}
    order: dict[int, int] | None = None
    found: list[Nodes] = []
    at = len(text)
    while at > 0:
        start = starts[at]
        if at in pairs:
            found.append(pairs[at].nodes)
            start = pairs[at].start
        elif _goes_on_behind_pair(text, at, starts, pairs) and len(tokens) <= MOST_TOKENS:
            order = _found_first(text) if order is None else order
            start = order[at]
            found.append((text[start:at],))
        else:
            found.append((text[start:at],))
        at = start
    return tuple(node for nodes in reversed(found) for node in nodes)


class _Token(NamedTuple):
    start: int
    end: int


@dataclass(frozen=True)
class _Pair:
    """A pair of brackets that is an emphasis, an edit or a swap."""

    start: int
    nodes: Nodes
    depth: int
    """Of the edits and swaps within; 0 where there are none."""


def _tokens(text: str) -> list[_Token] | None:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        found.append(_Token(*match.span()))
        at = match.end()
    return found


def _pairs(text: str, tokens: Sequence[_Token]) -> dict[int, _Pair]:
    """Where they end -> the pairs that the grammar knows, those within others included."""
    pairs: dict[int, _Pair] = {}
    opened: list[list[_Token | _Pair]] = []
    for token in tokens:
        letter = text[token.start] if token.end == token.start + 1 else ""
        if letter and letter in "([":
            opened.append([token])
        elif letter and letter in ")]":
            if not opened or text[opened[-1][0].start] != "(["[")]".index(letter)]:
                opened.clear()  # nothing that holds this bracket is a prompt
                continue
            first, *inner = opened.pop()
            assert isinstance(first, _Token)
            pair = _pair(text, first.start, token.end, inner)
            if pair is None:
                opened.clear()
                continue
            pairs[token.end] = pair
            if opened:
                opened[-1].append(pair)
        elif opened:
            opened[-1].append(token)
    return pairs


def _pair(text: str, start: int, end: int, inner: Sequence[_Token | _Pair]) -> _Pair | None:
    """What stands between two brackets, of which only colons and bars can be stray; None if that is no prompt."""
    depth = max((part.depth for part in inner if isinstance(part, _Pair)), default=0)
    parts: list[list[_Token | _Pair]] = [[]]
    separators = ""
    for part in inner:
        letter = text[part.start : part.end] if isinstance(part, _Token) else ""
        if letter in (":", "|"):
            separators += letter
            parts.append([])
        else:
            parts[-1].append(part)

    def nodes(index: int) -> Nodes:
        return _joined(text, parts[index])

    made: Edit | Swap | None = None
    last = "".join(text[part.start : part.end] if isinstance(part, _Token) else "[" for part in parts[-1])
    if text[start] == "[" and separators and set(separators) == {"|"}:
        made = Swap(tuple(nodes(index) for index in range(len(parts))))
    elif text[start] == "[" and separators in (":", "::") and (when := _WHEN.fullmatch(last)):
        made = Edit(nodes(0) if len(parts) == 3 else (), nodes(-2), when[1])
    elif separators and (text[start], separators) != ("(", ":"):
        return None
    if made is not None and depth < DEEPEST:
        return _Pair(start, (made,), depth + 1)
    if depth == 0 or made is not None:
        return _Pair(start, (text[start:end],), 0)
    middle = [node for index in range(len(parts)) for node in ((":",) if index else ()) + nodes(index)]
    return _Pair(start, (text[start], *middle, text[end - 1]), depth)


def _joined(text: str, parts: Sequence[_Token | _Pair]) -> Nodes:
    return tuple(
        node for part in parts for node in (part.nodes if isinstance(part, _Pair) else (text[part.start : part.end],))
    )


def _has_stray_bar(text: str, tokens: Sequence[_Token], pairs: dict[int, _Pair]) -> bool:
    starts = {token.end: token.start for token in tokens}
    at = len(text)
    while at > 0:
        start = pairs[at].start if at in pairs else starts[at]
        if text[start:at] == "|":
            return True
        at = start
    return False


def _goes_on_behind_pair(text: str, at: int, starts: dict[int, int], pairs: dict[int, _Pair]) -> bool:
    """Whether the stray letters that end there go on behind the bracket of a pair, which may be stray as well then.

    Also a pair without an edit: if it is none, its first bracket makes the stray letters before it more.
    """
    while at > 0 and at - starts[at] == 1 and text[at - 1] in STRAY:
        at -= 1
        if at in pairs:
            return True
    return False


# ---- the parser's way

_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("start", ("all",)),
    ("start", ()),
    ("all", ("prompt",)),
    ("all", ("strays",)),
    ("all", ("all", "prompt")),
    ("all", ("all", "strays")),
    ("prompt", ("parts",)),
    ("prompt", ()),
    ("strays", ("STRAY",)),
    ("strays", ("strays", "STRAY")),
    *(("parts", (part,)) for part in ("emphasis", "edit", "swap", "plain", "BLANKS")),
    *(("parts", ("parts", part)) for part in ("emphasis", "edit", "swap", "plain", "BLANKS")),
    ("emphasis", ("(", "prompt", ")")),
    ("emphasis", ("(", "prompt", ":", "prompt", ")")),
    ("emphasis", ("[", "prompt", "]")),
    *(
        ("edit", ("[", *before, "prompt", ":", *left, "NUMBER", *right, "]"))
        for before in (("prompt", ":"), ())
        for left in (("BLANKS",), ())
        for right in (("BLANKS",), ())
    ),
    ("swap", ("[", "prompt", "bars", "]")),
    ("plain", ("PLAIN",)),
    ("bars", ("|", "prompt")),
    ("bars", ("|",)),
    ("bars", ("bars", "|", "prompt")),
    ("bars", ("bars", "|")),
)
"""The grammar without repetitions and options, in the parser's order: name, and what it is made of."""
_MORE_STRAYS = _RULES.index(("all", ("all", "strays")))
_NAMES = {name for name, _ in _RULES}
_TERMINALS = {
    "STRAY": re.compile(r"[\[\]():]"),
    "BLANKS": re.compile(r"\s+"),
    "NUMBER": re.compile(NUMBER),
    "PLAIN": re.compile(r"(?:[^\\\[\]():|]|\\.)+"),
    **{letter: re.compile(re.escape(letter)) for letter in "()[]:|"},
}


def _beginnings(name: str) -> list[int]:
    """The rules that may begin something of that name: its own, then those of what they begin with, level by level."""
    found: list[int] = []
    names = [name]
    for one in names:
        for number, (origin, made_of) in enumerate(_RULES):
            if origin == one:
                found.append(number)
                if made_of and made_of[0] in _NAMES and made_of[0] not in names:
                    names.append(made_of[0])
    return found


_BEGINNINGS = {name: _beginnings(name) for name in _NAMES}

_Item = tuple[int, int, int]
"""A rule that is being read: its number, how much of it is read, and where it began."""


class _Column:
    """The rules that are being read at one place of the text, in the order in which they got there."""

    def __init__(self) -> None:
        self.items: dict[_Item, None] = {}
        self.waiting: dict[str, list[_Item]] = {}
        """What comes next -> the items that wait for it."""


_WANTED: list[tuple[str | None, ...]] = [(*made_of, None) for _, made_of in _RULES]
"""Of each rule, what comes next after so much of it; None at its end."""


def _found_first(text: str) -> dict[int, int]:
    """Where stray letters end -> where those begin of which the parser knows first that they end there."""
    first: dict[int, int] = {}
    columns = [_Column() for _ in range(len(text) + 1)]
    ahead: dict[int, list[_Item]] = {}  # where a terminal ends -> the items that it takes further
    to_scan: dict[_Item, None] = {}  # items that wait for a terminal, in order
    for number in _BEGINNINGS["start"]:
        _put((number, 0, 0), columns[0], to_scan)
    for at, column in enumerate(columns):
        for rule, read, start in ahead.pop(at, ()):
            _put((rule, read + 1, start), column, to_scan)
        stack = list(column.items)
        empty: set[str] = set()  # what has been read here without a letter
        while stack:
            rule, read, start = stack.pop()
            name, wanted = _RULES[rule][0], _WANTED[rule][read]
            advanced: list[_Item]
            if wanted is None:
                if start == at:
                    empty.add(name)
                advanced = [(one, done + 1, begun) for one, done, begun in columns[start].waiting.get(name, ())]
                if name == "strays" and any(one == _MORE_STRAYS for one, _, _ in advanced):
                    first.setdefault(at, start)
            else:
                advanced = [(number, 0, at) for number in _BEGINNINGS[wanted]]
                if wanted in empty:
                    advanced.append((rule, read + 1, start))
            stack += [one for one in advanced if _put(one, column, to_scan)]
        scanned, to_scan = to_scan, {}
        for item in scanned:
            wanted = _WANTED[item[0]][item[1]]
            assert wanted is not None
            if (match := _TERMINALS[wanted].match(text, at)) is not None:
                ahead.setdefault(match.end(), []).append(item)
    return first


def _put(item: _Item, column: _Column, to_scan: dict[_Item, None]) -> bool:
    """Whether it is to be gone on with here: it is new, and waits for no terminal."""
    wanted = _WANTED[item[0]][item[1]]
    if wanted in _TERMINALS:
        to_scan[item] = None
        return False
    if item in column.items:
        return False
    column.items[item] = None
    if wanted is not None:
        column.waiting.setdefault(wanted, []).append(item)
    return True
