"""Edits and swaps of a prompt, once they are found: what stands there in which step."""

from dataclasses import dataclass

DEEPEST = 100
"""Edits and swaps inside more brackets than this are taken as plain text."""

NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""When an edit happens, as A1111 spells it; a share of the steps if it has a point."""


@dataclass(frozen=True)
class Edit:
    """One text up to a step, another one behind it."""

    before: "Nodes"
    after: "Nodes"
    when: str


@dataclass(frozen=True)
class Swap:
    """One text after the other, step by step."""

    choices: "tuple[Nodes, ...]"


Nodes = tuple["str | Edit | Swap", ...]


def spoken(node: str | Edit | Swap, step: int, steps: int, before: int) -> str:
    """The text of a node in that step, from 1, of a pass after so many steps before."""
    if isinstance(node, str):
        return node
    if isinstance(node, Swap):
        chosen = node.choices[(step - 1) % len(node.choices)]
    else:
        share = float(node.when)
        when = (share - (before > 0)) * steps if "." in node.when else share - before
        # Clamped before it is made whole, which an infinite number (1e999) cannot be.
        chosen = node.before if step <= int(min(max(when, -1.0), steps)) else node.after
    return "".join(spoken(inner, step, steps, before) for inner in chosen)
