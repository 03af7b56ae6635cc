"""The options of `diafano generate` that add something to the model: what they become for `diafano.load`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer

from diafano.errors import UserError
from diafano.request.keywords import Settings

if TYPE_CHECKING:
    from diafano.sampling.control import Control
    from diafano.stable_diffusion import StableDiffusion


NETWORK_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""How names of files with weights end; the names of upscalers do not."""


@dataclass(frozen=True)
class ControlOptions:
    """ControlNets and their pictures, as they were typed; of each of the lists one for each network, or one for all."""

    title: ClassVar[str] = "ControlNets"

    networks: Annotated[
        list[Path],
        typer.Option("--control", help="ControlNet, diffusers' folder or a file; may be repeated.", metavar="SOURCE"),
    ] = field(default_factory=list)
    pictures: Annotated[
        list[Path],
        typer.Option(
            "--control-image",
            help="Picture that the ControlNet is to follow: edges, a pose, what it knows.",
            metavar="PICTURE",
        ),
    ] = field(default_factory=list)
    strengths: Annotated[
        list[float],
        typer.Option("--control-strength", help="How strongly the ControlNet acts. Default: 1.", metavar="S"),
    ] = field(default_factory=list)
    starts: Annotated[
        list[float],
        typer.Option("--control-start", help="Share of the steps before it acts. Default: 0.", metavar="SHARE"),
    ] = field(default_factory=list)
    ends: Annotated[
        list[float],
        typer.Option(
            "--control-end", help="Share of the steps after which it acts no more. Default: 1.", metavar="SHARE"
        ),
    ] = field(default_factory=list)

    def controls(
        self, model: "StableDiffusion", recorded: Mapping[str, str], *, allow_partial: bool
    ) -> tuple[list["Control"], list[str]]:
        """The controls, and what a picture had of them that is not here.

        Where nothing is typed, a network acts as `recorded` (`Recorded.addons`) says of it.
        """
        from diafano.checkpoints.controlnet import load_controlnet
        from diafano.pictures.files import read_picture
        from diafano.request.controls import PICTURES, UNIT, control_from_infotext
        from diafano.sampling.control import Control

        if len(self.networks) != len(self.pictures):
            raise UserError(
                f"there are {len(self.networks)} --control and {len(self.pictures)} --control-image: give one picture"
                " for each ControlNet"
            )
        units = {key: control_from_infotext(value) for key, value in recorded.items() if key.startswith(UNIT)}
        hashes = recorded.get(PICTURES, "").split(", ")
        made: list[Control] = []
        lost: list[str] = []
        for index, (source, picture) in enumerate(zip(self.networks, self.pictures, strict=True)):
            network = load_controlnet(source, model, allow_partial=allow_partial)
            said = units.get(f"{UNIT}{index}", {})
            said = said if said.get("model", "").endswith(f"[{network.hash}]") else {}
            numbers = [
                self._number(typed, index, option, said.get(key, default))
                for typed, option, key, default in (
                    (self.strengths, "strength", "weight", "1"),
                    (self.starts, "start", "guidance start", "0"),
                    (self.ends, "end", "guidance end", "1"),
                )
            ]
            made.append(Control(network, read_picture(picture), *numbers))
            if said:
                del units[f"{UNIT}{index}"]
                if hashes[index : index + 1] not in ([made[-1].picture_hash], [""], []):
                    lost.append(f"{PICTURES}: {hashes[index]} ({picture} is another one)")
        lost += [
            f"{key}: {said.get('model', '')} (give it with --control and --control-image)"
            for key, said in units.items()
        ]
        return made, lost

    def _number(self, typed: Sequence[float], index: int, option: str, otherwise: str) -> float:
        if len(typed) not in (0, 1, len(self.networks)):
            raise UserError(
                f"there are {len(typed)} --control-{option} and {len(self.networks)} --control: give one, or one for"
                " each"
            )
        if typed:
            return typed[0] if len(typed) == 1 else typed[index]
        try:
            return float(otherwise)
        except ValueError:
            raise UserError(
                f"the picture says {otherwise!r} of its ControlNet's {option}: give --control-{option}"
            ) from None


@dataclass(frozen=True)
class AddonOptions:
    """What is added to the model, as it was typed."""

    title: ClassVar[str] = "Add-ons"

    lora: Annotated[
        list[str],
        typer.Option(help="LoRA file, and its strength if that is not 1; may be repeated.", metavar="FILE[:S]"),
    ] = field(default_factory=list)
    lora_dir: Annotated[
        list[Path],
        typer.Option(
            help="Folder of the LoRAs that a prompt names, as in <lora:name:0.8>; may be repeated.", metavar="FOLDER"
        ),
    ] = field(default_factory=list)
    embedding: Annotated[
        list[Path],
        typer.Option(
            help="File of a textual inversion, or folder of them: words that the prompts may then have; may be"
            " repeated.",
            metavar="FILE_OR_FOLDER",
        ),
    ] = field(default_factory=list)
    upscaler_dir: Annotated[
        list[Path],
        typer.Option(
            help="Folder of the networks that --hires-upscaler and --upscaler name (ESRGAN's, Real-ESRGAN's); may be"
            " repeated.",
            metavar="FOLDER",
        ),
    ] = field(default_factory=list)
    vae: Annotated[
        Path | None,
        typer.Option(
            help="Another autoencoder: diffusers' folder of one, or of a model, or an original file.", metavar="SOURCE"
        ),
    ] = None
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Apply an add-on even if the model has no place for some of it.")
    ] = False
    control: ControlOptions = field(default_factory=ControlOptions)

    @property
    def lora_names(self) -> set[str]:
        return {path.stem for path, _ in map(with_strength, self.lora)}

    def loading(self, upscalers: Mapping[str, Path]) -> dict[str, Any]:
        """For `diafano.load`; `upscalers` are files that were typed where names may stand."""
        files: dict[str, Path] = {}
        for path, _ in map(with_strength, self.lora):
            if files.setdefault(path.stem, path) != path:
                raise UserError(f"--lora names two files called {path.stem}: give one of them another name")
        loras = [*self.lora_dir, files]
        return {
            "loras": loras if any(loras) else None,
            "embeddings": list(self.embedding) or None,
            "upscalers": [*self.upscaler_dir, upscalers] if self.upscaler_dir or upscalers else None,
            "vae": self.vae,
            "allow_partial": self.allow_partial,
        }

    def tagged(self, prompt: str) -> str:
        """The prompt with a tag for each LoRA that was typed."""
        from diafano.text_encoder.lora_tags import with_tag

        for path, strength in map(with_strength, self.lora):
            prompt = with_tag(prompt, path.stem, strength)
        return prompt


def named_upscalers(settings: Settings) -> tuple[Settings, dict[str, Path]]:
    """The settings with names in the place of upscalers' files, and the files by these names."""
    named: dict[str, Path] = {}
    said: dict[str, Any] = {**settings}
    for name in ("hires_upscaler", "upscaler"):
        path = Path(said.get(name) or "")
        if path.suffix.lower() in NETWORK_FILES:
            if named.setdefault(path.stem, path) != path:
                raise UserError(f"two upscalers are files called {path.stem}: give one of them another name")
            said[name] = path.stem
    return cast(Settings, said), named


def with_strength(typed: str) -> tuple[Path, float | None]:
    """``style.safetensors:0.8`` -> (style.safetensors, 0.8)."""
    match = re.fullmatch(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+))", typed)
    return (Path(typed), None) if match is None else (Path(match[1]), float(match[2]))
