"""A picture's settings as one text, in the wording that A1111 writes into its files and that everyone reads.

    a red apple,                                        the prompt, of as many lines as it has
    on a table
    Negative prompt: blurry                             left out when it is empty
    Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, ...     the settings

`infotext` writes it and `parse_infotext` takes it apart again.
"""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

NEGATIVE = "Negative prompt:"
EXACT_PROMPT, EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"
"""Settings that hold the two texts once more, where the lines alone would be read as something else."""

PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
"""A1111's own pattern of ``Key: value``, with a longest key, so that no text takes long to read."""

FEWEST_PAIRS = 3
"""A last line with fewer settings is part of the prompt."""


class Infotext(NamedTuple):
    """The text, taken apart."""

    prompt: str
    negative: str
    settings: dict[str, str]
    """In their order, values unquoted."""


def infotext(prompt: str, negative: str, settings: Mapping[str, object]) -> str:
    """The prompt, ``Negative prompt: ...`` unless it is empty, and one line of ``Key: value`` pairs in their order.

    A value that would not be read back as it is, such as one with a comma, a colon or a line break, is quoted as JSON.
    So are both texts, as further settings, where a prompt looks like a line of this format.
    """
    lines = [prompt]
    if negative:
        lines.append(f"{NEGATIVE} {negative}")
    pairs = [f"{key}: {_quoted(value)}" for key, value in settings.items()]
    text = "\n".join([*lines, ", ".join(pairs)])
    if len(pairs) >= FEWEST_PAIRS and parse_infotext(text)[:2] != (prompt, negative):
        pairs += [f"{key}: {json.dumps(exact)}" for key, exact in ((EXACT_PROMPT, prompt), (EXACT_NEGATIVE, negative))]
        text = "\n".join([*lines, ", ".join(pairs)])
    return text


def parse_infotext(text: str) -> Infotext:
    """What `infotext` wrote, and what A1111 and its kin write; `settings` is empty where there are none."""
    *lines, last = text.rstrip().split("\n")
    pairs: list[tuple[str, str]] = PAIR.findall(last)
    if len(pairs) < FEWEST_PAIRS:
        lines, pairs = [*lines, last], []
    settings = {key: _unquoted(value) for key, value in pairs}
    first_negative = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    prompt = "\n".join(lines[:first_negative])
    negative = "\n".join(lines[first_negative:]).removeprefix(NEGATIVE).removeprefix(" ")
    return Infotext(settings.pop(EXACT_PROMPT, prompt), settings.pop(EXACT_NEGATIVE, negative), settings)


def _quoted(value: object) -> str:
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)  # 7.0 is written 7
    plain = text == text.strip() != "" and not any(mark in text for mark in ',:"\\') and text.isprintable()
    return text if plain else json.dumps(text, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:  # it only looks like JSON
            return value
    return value.strip()
