"""The families that this program knows, and which of them something is of."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from diafano.errors import UserError
from diafano.families.family import Family, Parts, SingleFile
from diafano.families.stable_diffusion import SD1, SD2

FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, SD2)}
"""By name; where nothing decides, the first one."""
FOREIGN = {"text_encoder_2", "text_encoder_3", "text_encoder_4", "transformer", "prior", "decoder"}
"""Folders of parts that draw, which Stable Diffusion 1 and 2 do not have."""


def family_of(parts: Parts) -> Family:
    """The family whose parts these are; of parts that are nobody's the first, whose `check` says what is odd."""
    families = list(FAMILIES.values())
    return next((family for family in families if family.belongs(parts)), families[0])


def family_of_index(index: Mapping[str, Any]) -> Family | None:
    """A family whose folders a model_index.json names: one with its class of network, else the first with its folders.

    None where it names a folder that only other families have.
    """
    known = {folder for family in FAMILIES.values() for folder in family.folders} | FOREIGN
    fitting = [family for family in FAMILIES.values() if not (index.keys() & known) - family.folders.keys()]
    for family in fitting:
        classes = {part.class_name for part in family.folders[family.network]}
        named = index.get(family.network)
        if isinstance(named, list) and named and named[-1] in classes:
            return family
    return fitting[0] if fitting else None


def family_of_tensors(tensors: Mapping[str, Tensor]) -> Family | None:
    """The family of a single file, None for a file of another kind.

    The youngest are asked first: what marks them is their own, while the first family takes files of which little is
    left.
    """
    families = reversed(FAMILIES.values())
    return next((one for one in families if one.single_file is not None and one.single_file.fits(tensors)), None)


def single_file_of(family: Family) -> SingleFile:
    """How the family's models lie in one file. Raises UserError where there is no such form."""
    if family.single_file is None:
        raise UserError(f"{family.label} has no form of a single file: write a folder")
    return family.single_file


def known_families(conjunction: str = "and") -> str:
    """All of them in a sentence: ``Stable Diffusion 1 and 2``."""
    return _joined((family.label for family in FAMILIES.values()), conjunction)


def _joined(labels: Iterable[str], conjunction: str) -> str:
    """What two neighbours both begin with is said once."""
    words: list[str] = []
    before = ""
    for label in labels:
        start, _, last = label.rpartition(" ")
        words.append(last if start and start == before else label)
        before = start
    return " ".join(filter(None, (", ".join(words[:-1]), conjunction if words[1:] else "", words[-1])))
