"""A picture's settings as one text, in the wording that A1111 writes into its files and that everyone reads."""

import json
from collections.abc import Mapping


def infotext(prompt: str, negative: str, settings: Mapping[str, object]) -> str:
    """The prompt, ``Negative prompt: ...`` unless it is empty, and one line of ``Key: value`` pairs in their order.

    A value that holds a comma, a colon or a line break is quoted as JSON, so that the line can be taken apart again.
    """
    lines = [prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items()))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)  # 7.0 is written 7
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
