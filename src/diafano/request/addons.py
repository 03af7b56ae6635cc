"""Add-ons: what was added to a model after it was loaded, and what a picture records of it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from diafano.errors import UserError, note
from diafano.networks.lora import Lora, Strength
from diafano.pictures.upscaling import FindUpscaler, find_upscaler, in_table
from diafano.request.request import Request
from diafano.text_encoder.lora_tags import (
    LoraTag,
    hashed_name,
    lora_tags,
    read_hashes,
    unknown_tags,
    without_loras,
    write_hashes,
)

Loras = Mapping[str, tuple[Lora, Strength]]
"""The LoRAs that a prompt names."""

FindLora = Callable[[str], Lora]
"""The LoRA of a name. Raises UserError where there is none."""


def _knows_none(name: str) -> Lora:
    raise UserError(
        f"the LoRA {name!r} that the prompt names is not known, nor any other: give --lora-dir FOLDER or --lora FILE,"
        " or load the model with loras=FOLDER"
    )


@dataclass
class Addons:
    """A model's add-ons."""

    find_lora: FindLora = _knows_none
    """Where LoRAs that a prompt names come from."""
    kept: dict[str, tuple[LoraTag, str]] = field(default_factory=dict)
    """LoRAs that are within the weights whatever the prompt says, and their hashes."""
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Textual inversions: a word, in lower case, and the name and the hash of its file."""
    autoencoder: tuple[str, str] | None = None
    """Name and hash of the autoencoder that took the place of the model's own."""
    find_upscaler: FindUpscaler = find_upscaler
    """Where upscalers that a request names come from."""
    own_upscaler: str | None = None
    """The name of the one that belongs to the model."""

    def knows_upscaler(self, name: str) -> bool:
        """Whether there is an upscaler of that name, without reading its file."""
        knows: Callable[[str], bool] = getattr(self.find_upscaler, "knows", in_table)
        return knows(name)

    def with_upscaler(self, request: Request) -> Request:
        """The request with the upscaler that it leaves open. Raises UserError where one that it names is not known."""
        if request.has_second_pass:
            self.find_upscaler(request.hires_upscaler)
        if not request.is_enlarged:
            return request
        name = request.upscaler
        if name is None:
            name = "Lanczos" if self.own_upscaler is None else self.own_upscaler
        self.find_upscaler(name).check_pictures()
        return request.model_copy(update={"upscaler": name})

    def loras_of(self, prompt: str) -> dict[str, tuple[Lora, Strength]]:
        """The LoRAs that a prompt names; the strengths of one that is named again are added up."""
        if unknown := unknown_tags(prompt):
            note(f"left out: {', '.join(unknown)}, only <lora:...> is known")
        found: dict[str, tuple[Lora, Strength]] = {}
        for tag in lora_tags(prompt):
            lora, before = found.get(tag.name, (None, Strength(0.0, 0.0)))
            strength = Strength(before.text + tag.text, before.unet + tag.unet)
            found[tag.name] = (self.find_lora(tag.name) if lora is None else lora, strength)
        return found

    def recorded_prompt(self, prompt: str) -> str:
        """The prompt with a tag for each LoRA that is kept: asked for that, a model without them draws the same."""
        return " ".join([prompt, *(str(tag) for tag, _ in self.kept.values())])

    def recorded(self, loras: Loras, words: Collection[str]) -> dict[str, object | None]:
        """A1111's settings that tell of the add-ons of a picture, whose prompts name these LoRAs and added words."""
        hashes = {name: lora.hash for name, (lora, _) in loras.items()}
        hashes |= {name: value for name, (_, value) in self.kept.items()}
        known = dict(self.words[word] for word in sorted(words) if word in self.words)
        name, value = (None, None) if self.autoencoder is None else self.autoencoder
        return {
            **{"VAE hash": value, "VAE": name},
            **{"Lora hashes": write_hashes(hashes), "TI hashes": write_hashes(known)},
        }

    def honoured(
        self, prompt: str, recorded: Mapping[str, str], insisted: Collection[str] = ()
    ) -> tuple[str, list[str]]:
        """A picture's prompt without what this model cannot add, and what is not as it was, a few words each.

        `recorded` are the picture's settings that tell of its add-ons (`request.recorded.ADDONS`). The LoRAs
        `insisted` upon stay, though their hash be another.
        """
        hashes = read_hashes(recorded.get("Lora hashes", ""))
        lost: list[str] = []
        for tag in lora_tags(prompt):
            wanted = hashes.pop(hashed_name(tag.name), None)
            try:
                found = self.find_lora(tag.name).hash
            except UserError as error:
                lost.append(f"{tag} ({error})")
                prompt = without_loras(prompt, [tag.name])
                continue
            if wanted is None or found.startswith(wanted) or wanted.startswith(found):
                continue
            difference = f"has the hash {found} here and had {wanted}"
            if tag.name in insisted:
                note(f"the LoRA {tag.name} {difference}: it is another one")
            else:
                lost.append(f"{tag} ({difference}: give the file to take, with --lora)")
                prompt = without_loras(prompt, [tag.name])
        lost += [f"Lora hashes: {name}: {value}" for name, value in hashes.items()]
        known = {(hashed_name(name), value) for name, value in self.words.values()}
        for name, value in read_hashes(recorded.get("TI hashes", "")).items():
            if not any(name == other and here.startswith(value) for other, here in known):
                lost.append(f"TI hashes: {name}: {value} (give that file with --embedding)")
        if "VAE" in recorded and not self._has_autoencoder(recorded["VAE"], recorded.get("VAE hash", "")):
            lost.append(f"VAE: {recorded['VAE']} (give that autoencoder with --vae)")
        return prompt, lost

    def _has_autoencoder(self, name: str, hash: str) -> bool:
        """Whether it is that; a picture with a hash is believed about it alone, as files are renamed."""
        here_name, here = ("", "") if self.autoencoder is None else self.autoencoder
        return here_name == name if not hash else bool(here) and (here.startswith(hash) or hash.startswith(here))
