"""What is said of a single file outside of its tensors: by a configuration in YAML beside it, and by its name.

    model.yaml      CompVis' and Stability's configuration, as A1111 and ComfyUI read it: what the UNet predicts, the
                    noise schedule, the scale of latents; a ControlNet's, whether its maps are pooled
    the name        "vpred", "ztsnr", "_shuffle": a hint, which is told as one

A folder says all of this in its own configurations.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from diafano.checkpoints.opening import is_file, unreadable
from diafano.errors import UserError

SUFFIXES: Final = (".yaml", ".yml")
LONGEST: Final = 10**6
"""Bytes of a configuration; those of models have a few thousand."""
_LINE = re.compile(r"""^(?P<indent>\s*)(?P<key>[\w.$-]+)\s*:\s*(?P<value>[^#]*?)\s*(#.*)?$""")
_START, _END = r"(?:^|[^a-z])", r"(?:[^a-z]|$)"
V_IN_NAME: Final = re.compile(rf"{_START}v[-_ ]?(?:pred|prediction|param)(?:iction)?{_END}", re.IGNORECASE)
NOISE_IN_NAME: Final = re.compile(rf"{_START}(?:eps|epsilon)[-_ ]?(?:pred|prediction){_END}", re.IGNORECASE)
ZERO_IN_NAME: Final = re.compile(
    rf"{_START}(?:z[-_ ]?t?[-_ ]?snr|(?:zero|terminal)[-_ ](?:terminal[-_ ])?snr){_END}", re.I
)
PREDICTIONS: Final = {"v": "v", "eps": "noise", "epsilon": "noise"}
"""CompVis' ``parameterization`` -> ours."""
POOLED_IN_NAME: Final = re.compile(rf"{_START}shuffle{_END}", re.IGNORECASE)


@dataclass(frozen=True)
class Beside:
    """Of one file."""

    path: Path
    yaml: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the YAML, by their way from its top: ``model.params.parameterization``."""

    def says(self, *endings: str) -> str | None:
        """The first setting whose way ends so, as a text; None where there is none."""
        return next(
            (value for ending in endings for way, value in self.settings.items() if f".{way}".endswith(f".{ending}")),
            None,
        )

    def number(self, *endings: str) -> float | None:
        """The same, which must be a number."""
        said = self.says(*endings)
        try:
            return None if said in (None, "") else float(str(said))
        except ValueError:
            raise UserError(
                f"{self.yaml} has {endings[0]} = {said!r}, which is no number: mend it or move it"
            ) from None

    def flag(self, *endings: str) -> bool:
        """Whether a setting is on."""
        return str(self.says(*endings)).lower() in ("true", "yes", "on", "1")


def find_beside(path: Path) -> Beside:
    """What is beside the file at `path`. Raises UserError for a configuration that cannot be read."""
    for suffix in SUFFIXES:
        yaml = path.with_suffix(suffix)
        if is_file(yaml):
            return Beside(path, yaml, _settings(yaml))
    return Beside(path)


def _settings(path: Path) -> dict[str, str]:
    """Plain settings of a YAML file by their way from its top; lists and what spans lines is left out.

    The package has no YAML to import, and configurations of models are nothing but nested keys.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST).decode("utf-8-sig", "replace")
    except OSError as error:
        raise unreadable(path, error) from error
    found: dict[str, str] = {}
    ways: list[tuple[int, str]] = []
    for line in text.split("\n"):
        match = _LINE.match(line.rstrip("\r"))
        if match is None:
            continue
        depth = len(match["indent"].expandtabs())
        while ways and ways[-1][0] >= depth:
            ways.pop()
        ways.append((depth, match["key"]))
        if match["value"]:
            found[".".join(key for _, key in ways)] = match["value"].strip("\"'")
    return found
