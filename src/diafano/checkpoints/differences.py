"""What a network wants and what a file has, held against each other."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Differences:
    """Names of tensors."""

    missing: list[str]
    """Wanted and not there, in the network's order."""
    misshapen: dict[str, str]
    """There in another shape -> ``(3,) instead of (8,)``."""
    unexpected: list[str]
    """There and not wanted, in alphabetical order."""

    @property
    def misshapes(self) -> list[str]:
        """Each with its shapes."""
        return [f"{name} {shapes}" for name, shapes in self.misshapen.items()]


def compare(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Differences:
    """The wanted tensors, of which only the shapes count, and those that are there."""
    return Differences(
        missing=[name for name in wanted if name not in found],
        misshapen={
            name: f"{tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        },
        unexpected=sorted(found.keys() - wanted.keys()),
    )
