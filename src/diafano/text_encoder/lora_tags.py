"""The tags that name a LoRA in a prompt, as A1111 reads them, and its line of hashes in a picture's settings.

    <lora:name>  <lora:name:0.8>                of one strength, 1 if there is none
    <lora:name:0.5:0.8>                         of 0.5 in the text encoder and 0.8 in the UNet
    <lora:name:te=0.5:unet=0.8>                 the same

A tag leaves the prompt before it is encoded, wherever it stands. In a negative prompt it is text like any other.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from diafano.errors import UserError

ANY_TAG = re.compile(r"<(\w+):([^>]+)>")
"""A1111's own pattern of a tag."""
KINDS = ("lora", "lyco")
"""What a tag of a LoRA may be called; other kinds are networks that are not known here."""
UNSPEAKABLE = ":<>="
"""What a name in a tag cannot have."""


@dataclass(frozen=True)
class LoraTag:
    """A LoRA that a prompt names."""

    name: str
    text: float = 1.0
    """Its strength in the text encoder."""
    unet: float = 1.0

    def __post_init__(self) -> None:
        if not self.name or any(letter in self.name for letter in UNSPEAKABLE):
            raise UserError(
                f"a LoRA called {self.name!r} cannot be named in a prompt: give it a name without {UNSPEAKABLE}"
            )

    def __str__(self) -> str:
        strengths = (self.text,) if self.text == self.unet else (self.text, self.unet)
        return f"<lora:{self.name}:{':'.join(repr(float(one)).removesuffix('.0') for one in strengths)}>"


def without_tags(prompt: str) -> str:
    """The prompt without tags of any kind."""
    return ANY_TAG.sub("", prompt)


def lora_tags(prompt: str) -> list[LoraTag]:
    """The LoRAs that a prompt names, in its order. Raises UserError for a strength that is no number."""
    return [_read(match) for match in ANY_TAG.finditer(prompt) if match[1] in KINDS]


def unknown_tags(prompt: str) -> list[str]:
    """The prompt's tags of networks that are not known here, as they stand."""
    return [match.group() for match in ANY_TAG.finditer(prompt) if match[1] not in KINDS]


def without_loras(prompt: str, names: Collection[str]) -> str:
    """The prompt without the tags of the LoRAs of these names."""

    def kept(match: re.Match[str]) -> str:
        return "" if match[1] in KINDS and match[2].split(":")[0] in names else match.group()

    return ANY_TAG.sub(kept, prompt)


def with_tag(prompt: str, name: str, strength: float | None) -> str:
    """The prompt with that LoRA at that strength, whatever it said of it; None: what it says, 1 if nothing."""
    if strength is None and any(tag.name == name for tag in lora_tags(prompt)):
        return prompt
    tag = LoraTag(name) if strength is None else LoraTag(name, strength, strength)
    return f"{without_loras(prompt, [name]).rstrip()} {tag}"


def write_hashes(hashes: Mapping[str, str]) -> str | None:
    """A1111's ``name: hash, name: hash``; None of nothing."""
    return ", ".join(f"{hashed_name(name)}: {value}" for name, value in hashes.items()) or None


def read_hashes(line: str) -> dict[str, str]:
    """`write_hashes` reversed; what is no pair is left out."""
    pairs = (pair.partition(":") for pair in line.split(","))
    return {name.strip(): value.strip().lower() for name, colon, value in pairs if colon and name.strip()}


def hashed_name(name: str) -> str:
    """A name as it stands in the line of hashes: without what parts it."""
    return name.replace(",", "").replace(":", "")


def _read(match: re.Match[str]) -> LoraTag:
    items = match[2].split(":")
    named = dict(item.split("=", 1) for item in items[1:] if "=" in item)
    name, *numbers = [items[0], *(item for item in items[1:] if "=" not in item)]
    if len(numbers) > 2 or not named.keys() <= {"te", "unet"}:
        raise UserError(f"the tag {match.group()} says more than a name and two strengths: leave the rest out")
    text = _strength(named.get("te", numbers[0] if numbers else "1"), match)
    unet = named.get("unet", numbers[1] if len(numbers) > 1 else None)
    return LoraTag(name, text, text if unet is None else _strength(unet, match))


def _strength(text: str, match: re.Match[str]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= 100:
        raise UserError(f"the strength {text!r} in {match.group()} is not possible: give a number, 1 is usual")
    return number
