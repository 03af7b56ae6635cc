"""A picture's settings as one text, in the wording that A1111 writes into its files and that everyone reads.

    a red apple,                                        the prompt, of as many lines as it has
    on a table
    Negative prompt: blurry                             left out when it is empty
    Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, ...     the settings

`infotext` writes it and `parse_infotext` takes it apart again. JSON, and lines of a prompt that have colons, look much
like it: a line holds settings if it begins with one that is known, see `KNOWN`.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

NEGATIVE = "Negative prompt:"
EXACT_PROMPT, EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"
"""Settings that hold the two texts once more, where the lines alone would be read as something else."""

UPSCALED_BY, UPSCALER = "Postprocess upscale by", "Postprocess upscaler"
"""Settings of a picture that was made larger when it was finished."""

PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
"""A1111's own pattern of ``Key: value``, with a longest key, so that no text takes long to read."""

QUOTE = re.compile(r'(?<!\\)"')
"""One that is not escaped."""

FEWEST_PAIRS = 3
"""A line with fewer settings is part of the prompt."""

FIRST = "Steps"
"""What all programs write first; a line that begins with another known setting needs two that are known."""
KNOWN = frozenset(
    {FIRST, "Sampler", "Schedule type", "CFG scale", "CFG Scale", "Guidance Scale", "Seed", "Size", "Model hash"}
    | {"Model", "VAE hash", "VAE", "Denoising strength", "Clip skip", "Hires upscale", "Hires upscaler", "ENSD"}
    | {"Variation seed", "Batch size", "Batch pos", "Eta", "RNG", "Tiling", "Lora hashes", "TI hashes", "Version"}
)
"""Names of settings that A1111 and its kin write, enough of them to know the line by."""

PROGRAMS: tuple[tuple[str, frozenset[str]], ...] = (
    ("ComfyUI", frozenset({"workflow", "class_type"})),
    ("InvokeAI", frozenset({"invokeai_metadata", "invokeai_graph", "sd-metadata", "positive_prompt"})),
    ("SwarmUI", frozenset({"sui_image_params"})),
    ("Fooocus", frozenset({"fooocus_scheme", "adm_guidance", "base_model_hash"})),
    ("Easy Diffusion", frozenset({"use_stable_diffusion_model", "num_inference_steps"})),
    ("NovelAI", frozenset({"uc", "request_type", "signed_hash"})),
    ("Draw Things", frozenset({"seedMode", "seed_mode"})),
)
"""Other programs, and names by which their JSON, or what they call their texts, is known."""


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
    lines, line, _ = _taken_apart(text)
    settings = {key: _unquoted(value) for key, value, _, _ in _pairs(line)}
    first_negative = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    prompt = "\n".join(lines[:first_negative])
    negative = "\n".join(lines[first_negative:]).removeprefix(NEGATIVE).removeprefix(" ")
    return Infotext(settings.pop(EXACT_PROMPT, prompt), settings.pop(EXACT_NEGATIVE, negative), settings)


def with_upscaling(text: str, factor: float, upscaler: str) -> str:
    """The text of a picture that was made so many times larger since, as A1111's postprocessing says it.

    What the settings say stays letter by letter; a text without any is as it was.
    """
    before, line, behind = _taken_apart(text)
    if not line:
        return text
    for key, value in PAIR.findall(line):
        if key == UPSCALED_BY and re.fullmatch(r"\s*\d+(\.\d+)?", value):
            factor *= float(value)
    pairs = [match[0].strip(", ") for match in PAIR.finditer(line) if match[1] in (UPSCALED_BY, UPSCALER)]
    for pair in pairs:
        line = re.sub(rf"(, *)?{re.escape(pair)}", "", line, count=1)
    said = {UPSCALED_BY: factor, UPSCALER: upscaler}
    line = ", ".join([line.rstrip(", "), *(f"{key}: {_quoted(value)}" for key, value in said.items())])
    return "\n".join([*before, line, *behind])


def unread(text: str) -> list[str]:
    """What stands among the settings but is none, as ``Key: value``, and the lines behind them."""
    _, line, behind = _taken_apart(text)
    found: list[str] = []
    said: set[str] = set()
    at = 0
    for key, _, start, end in _pairs(line):
        found.append(line[at:start])
        if key in said:
            found.append(f"{key}: more than once")
        said.add(key)
        at = end
    found += [line[at:], *behind]
    return [one.strip(", ") for one in found if one.strip(", ")]


def program_of(texts: Mapping[str, str]) -> str | None:
    """Which other program wrote a picture's texts, by their names; None where that is not known."""
    names = set(texts)
    for text in texts.values():
        names |= _names_in(_json(text))
    return next((program for program, marks in PROGRAMS if names & marks), None)


def _taken_apart(text: str) -> tuple[list[str], str, list[str]]:
    """The lines before the settings, the settings ("" where there are none), and the lines behind them.

    The last line that begins with `FIRST`, else the last that holds settings. They go on in the next lines where a
    value has line breaks: up to the end of its quotes, and to the last line that holds settings.
    """
    lines = text.replace("\r\n", "\n").rstrip().split("\n")  # of Windows' editors, and of what is pasted there
    if isinstance(_json(text), dict | list):
        return lines, "", []
    holding = [place for place, line in enumerate(lines) if _holds_settings(line)]
    if not holding:
        return lines, "", []
    first = [place for place in holding if (match := PAIR.match(lines[place])) is not None and match[1] == FIRST]
    start = first[-1] if first else holding[-1]
    end = holding[-1] + 1
    while end < len(lines) and len(QUOTE.findall("\n".join(lines[start:end]))) % 2:
        end += 1
    if len(QUOTE.findall("\n".join(lines[start:end]))) % 2:  # nothing closes it: it is a letter
        end = holding[-1] + 1
    return lines[:start], "\n".join(lines[start:end]), lines[end:]


def _holds_settings(line: str) -> bool:
    keys = [key for key, *_ in _pairs(line)]
    known = [key for key in keys if key in KNOWN]
    return len(keys) >= FEWEST_PAIRS and keys[0] in KNOWN and (keys[0] == FIRST or len(known) > 1)


def _pairs(line: str) -> Iterator[tuple[str, str, int, int]]:
    """Key, value, start and end of each pair; a value that is an object or a list of JSON ends where that ends."""
    at = 0
    while (match := PAIR.search(line, at)) is not None:
        key, value, start, at = match[1], match[2], match.start(), match.end()
        if value[:1] in ("{", "["):
            begins = match.start(2)
            with contextlib.suppress(ValueError, RecursionError):
                _, ends = json.JSONDecoder().raw_decode(line, begins)
                if (rest := re.compile(r"\s*(,|$)").match(line, ends)) is not None:
                    value, at = line[begins:ends], rest.end()
        yield key, value, start, at
        if at == len(line):
            return


def _json(text: str) -> Any:
    """The text as JSON; None where it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _names_in(found: Any, depth: int = 3) -> set[str]:
    """The names in an object, and in those within it."""
    if depth == 0 or not isinstance(found, dict):
        return set()
    return set(found).union(*(_names_in(inner, depth - 1) for inner in found.values()))


def _quoted(value: object) -> str:
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)  # 7.0 is written 7
    plain = text == text.strip() != "" and not any(mark in text for mark in ',:"\\') and text.isprintable()
    return text if plain else json.dumps(text, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value, strict=False))  # of programs that leave line breaks as they are
        except (ValueError, RecursionError):  # it only looks like JSON
            return value
    return value.strip()
