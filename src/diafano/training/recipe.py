"""Recipes: what to train, on what, for how long. A recipe is a TOML or YAML file, checked before anything starts."""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from diafano.errors import UserError
from diafano.files import at_home, read_text, refusal
from diafano.networks.autoencoder import AutoencoderConfig
from diafano.networks.rrdb import RRDBNetConfig
from diafano.networks.tiny_decoder import TinyDecoderConfig
from diafano.networks.unet import UNetConfig
from diafano.noise.schedule import ScheduleConfig
from diafano.request.card import ModelCard
from diafano.text_encoder.bert import BERTConfig
from diafano.text_encoder.clip import CLIPTextConfig
from diafano.training.data.emoji.arrangements import Arrangement
from diafano.training.data.emoji.languages import Language
from diafano.training.data.emoji.objects import EVERYDAY
from diafano.training.optimisers import OptimiserName


def fitting_size(size: int, step: int) -> str:
    """The words for a size that is no multiple of what the networks need."""
    nearest = max(step, round(size / step) * step)
    return f"data.size {size} is not a multiple of {step}, which these networks need: use {nearest}, say"


class Section(BaseModel):
    """A part of a recipe: a key it does not know is an error, not a setting that is silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="after")
    @classmethod
    def _paths_begin_at_home(cls, value: Any) -> Any:
        return at_home(value) if isinstance(value, Path) else value


class DataRecipe(Section):
    """Captioned pictures: a folder of them, or emoji scenes made on the fly."""

    kind: Literal["emoji", "folder"] = "emoji"
    folder: Path | None = None
    """Of pictures with captions, for kind "folder"."""
    size: int = Field(default=128, ge=16, le=2048)
    """Edge of the square pictures, in pixels."""
    examples: int = Field(default=20_000, ge=1)
    """How many different emoji scenes to draw; a folder has what it has."""
    objects: tuple[str, ...] | None = None
    """Which objects emoji scenes show; all of them if left out. "everyday" stands for those that people name first."""
    sprites: Literal["shipped", "font", "sheet"] = "shipped"
    font: Path | None = None
    """A colour emoji font file, for sprites "font"; the one that fontconfig finds if left out."""
    sheet: Path | None = None
    """Folder of a sprite sheet, for sprites "sheet": `recipes/sprite_sheet.py` makes one of finer sprites."""
    mix: dict[str, float] | None = None
    """Shares of the kinds of emoji scenes, see `scene_sampler.TRAINING_MIX`, which it replaces."""
    snap: int = Field(default=1, ge=1)
    """Emoji scenes: objects' places and sizes are multiples of so many pixels; see `scenes.render`."""
    arrangement: Arrangement = "free"
    """Emoji scenes: whether objects stand anywhere or evenly spread; see `arrangements`."""
    languages: tuple[Language, ...] = Field(default=("en",), min_length=1)
    """Emoji scenes: what captions are in, each language as often."""
    seed: int = Field(default=0, ge=0)
    processes: int = Field(default=0, ge=0, le=64)
    """How many processes make examples beside the training; with 0 it makes them itself, and waits."""

    @field_validator("objects", mode="before")
    @classmethod
    def _everyday(cls, objects: Any) -> Any:
        return EVERYDAY if objects == "everyday" else objects

    @model_validator(mode="after")
    def _folder_is_named(self) -> "DataRecipe":
        if (self.kind == "folder") != (self.folder is not None):
            raise ValueError(f'kind "{self.kind}" and folder {self.folder} do not fit: name a folder for kind "folder"')
        if (self.sprites == "sheet") != (self.sheet is not None):
            raise ValueError(f'sprites "{self.sprites}" and sheet {self.sheet} do not fit: name a folder for "sheet"')
        return self


class LoopRecipe(Section):
    """How the loop runs: the same for every stage."""

    steps: int = Field(ge=1)
    """Updates of the weights."""
    batch: int = Field(default=32, ge=1)
    """Pictures in one forward and backward pass."""
    accumulate: int = Field(default=1, ge=1)
    """Passes whose gradients are averaged into one update."""
    workers: int = Field(default=1, ge=1, le=64)
    """How many of these passes run at the same time, each with its share of the cores: small pictures are too little
    work for a pass to be spread over many cores. The result is the same up to rounding."""
    optimiser: OptimiserName = "adamw"
    """See `optimisers`."""
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises from 0."""
    final_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the learning rate that is left at the end of its cosine decay; 1 is no decay."""
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all weights."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the exponential moving average of the weights, which is what is saved; 0 is the weights themselves,
    and takes the memory of one copy of them less."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What the passes compute in; "auto" is bf16 where the hardware multiplies matrices of it, else fp32."""
    gradient_checkpointing: bool = False
    """Keep no activations inside the blocks: much less memory, a third more time, the same gradients."""
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=500, ge=1)
    preview_every: int = Field(default=500, ge=1)
    log_every: int = Field(default=20, ge=1)
    tensorboard: bool = True

    @model_validator(mode="after")
    def _workers_have_passes(self) -> "LoopRecipe":
        if self.workers > self.accumulate:
            raise ValueError(f"workers {self.workers} have only {self.accumulate} passes to share: raise accumulate")
        return self


class StageRecipe(Section):
    """What every stage's recipe has."""

    output: Path
    """Folder to write to; a run that was stopped goes on from it."""
    loop: LoopRecipe


class AutoencoderLossRecipe(Section):
    """Weights of the terms of the autoencoder's loss; each term is a mean over its values."""

    absolute: float = Field(default=1.0, ge=0)
    squared: float = Field(default=1.0, ge=0)
    """Beside the absolute error: it pulls at large errors, so that colour is learnt at once."""
    gradient: float = Field(default=1.0, ge=0)
    """Absolute error of the differences between neighbouring pixels: crisp edges."""
    texture: float = Field(default=0.0, ge=0)
    """Absolute error of how much goes on in windows of 4 pixels (`losses.texture_error`): detail that is uncertain is
    drawn crisp somewhere, not averaged away; 0 is none."""
    divergence: float = Field(default=1e-3, ge=0)
    """Kullback-Leibler divergence of the latents from a unit normal distribution."""
    divergence_from: int = Field(default=0, ge=0)
    divergence_full: int = Field(default=1000, ge=0)
    """Between these two steps the divergence's weight rises from 0."""
    adversarial: float = Field(default=0.0, ge=0)
    """Patch discriminator; 0 is none."""
    adversarial_from: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _divergence_rises(self) -> "AutoencoderLossRecipe":
        if self.divergence_from > self.divergence_full:
            raise ValueError(f"divergence_from {self.divergence_from} is after divergence_full {self.divergence_full}")
        return self


class AutoencoderRecipe(StageRecipe):
    start: Path | None = None
    """Folder of an autoencoder, or of a model, to begin with; from nothing if left out. Of its weights are taken: a
    discriminator begins anew."""
    data: DataRecipe
    network: AutoencoderConfig
    loss: AutoencoderLossRecipe = AutoencoderLossRecipe()
    crop: int | None = Field(default=None, ge=16)
    """Edge of the windows to train on, in pixels; whole pictures if left out."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "AutoencoderRecipe":
        if self.data.size % self.network.factor:
            raise ValueError(fitting_size(self.data.size, self.network.factor))
        if self.crop is not None and (self.crop > self.data.size or self.crop % self.network.factor):
            raise ValueError(
                f"crop {self.crop} is not a multiple of {self.network.factor} up to the size {self.data.size}"
            )
        return self


class TextRecipe(StageRecipe):
    """Text encoder by CLIP's contrastive loss. The vocabulary is learnt from the captions first."""

    data: DataRecipe
    kind: Literal["clip", "bert"] = "clip"
    """CLIP: causal, byte pairs; BERT: every token sees the whole text, WordPiece."""
    network: CLIPTextConfig | BERTConfig
    """Its vocabulary and special tokens are set by the trained tokenizer."""
    vocabulary: int = Field(default=2000, ge=600)
    """Most tokens in the vocabulary: for CLIP 512 for single bytes, 2 special ones, the rest for words and pieces."""
    picture_widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of the picture tower, which is thrown away after training; each level halves height and width."""
    shared_width: int = Field(default=256, ge=8)
    """Of the space where texts and pictures meet."""
    alike: float = Field(default=0.0, ge=0, le=1)
    """Share of batches made of pictures with like colours. Where all are on red, "red" tells nothing apart: without
    such batches colours, which are learnt at once, are all that is learnt for long."""
    alike_captions: float = Field(default=0.0, ge=0, le=1)
    """Share of batches made of captions with like words: there only the few words that differ tell pictures apart."""

    @field_validator("network", mode="before")
    @classmethod
    def _of_its_kind(cls, network: Any, info: ValidationInfo) -> Any:
        shape = BERTConfig if info.data.get("kind") == "bert" else CLIPTextConfig
        return network if isinstance(network, shape) else shape.model_validate(network)

    @model_validator(mode="after")
    def _shares_fit(self) -> "TextRecipe":
        if self.alike + self.alike_captions > 1:
            raise ValueError(f"alike {self.alike} and alike_captions {self.alike_captions} are more than 1 together")
        return self


class UNetRecipe(StageRecipe):
    data: DataRecipe
    autoencoder: Path
    """Folder that the autoencoder's stage wrote (or a diffusers `vae` folder)."""
    text: Path
    """Folder that the text stage wrote: `text_encoder` and `tokenizer`."""
    start: Path | None = None
    """Folder of a model whose UNet to begin with; from nothing if left out."""
    network: UNetConfig
    schedule: ScheduleConfig
    card: ModelCard
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    min_snr: float = Field(default=5.0, ge=0)
    """Gamma of min-SNR weighting (Hang et al. 2023); 0 is none: every prediction's error counts as it is."""
    timestep_power: float = Field(default=1.0, gt=0)
    """Timesteps are drawn as steps * chance ** power: below 1 more often where there is much noise, and the caption
    decides; 1 is evenly."""
    train_text: bool = False
    """Train the text encoder further together with the UNet; its embeddings cannot be cached then."""

    @property
    def told_card(self) -> ModelCard:
        """The card, with the objects and languages of the emoji scenes where it does not name any."""
        if self.data.kind != "emoji" or self.card.objects is not None:
            return self.card
        return self.card.model_copy(update={"objects": self.data.objects, "languages": self.data.languages})


class PreviewRecipe(StageRecipe):
    """Tiny decoder, for previews of what a finished model draws."""

    model: Path | None = None
    """The model; the one that ships with the package if left out."""
    data: DataRecipe
    network: TinyDecoderConfig


class UpscalerLossRecipe(Section):
    """Weights of the terms of the upscaler's loss; each term is a mean over values in [0, 1]."""

    absolute: float = Field(default=1.0, ge=0)
    squared: float = Field(default=4.0, ge=0)
    """Beside the absolute error: it pulls at large errors, and so leads away from nearest neighbours."""
    gradient: float = Field(default=1.0, ge=0)
    """Absolute error of the differences between neighbouring pixels: crisp edges."""


class UpscalerRecipe(StageRecipe):
    """An upscaler, RRDBNet, that learns to give pictures from what they are made small."""

    data: DataRecipe
    """Of the large pictures."""
    network: RRDBNetConfig
    name: str = Field(default="upscaler", min_length=1)
    """What pictures record as their upscaler."""
    autoencoder: Path | None = None
    """Folder of a model, or of its autoencoder, that some of the small pictures go through: what the autoencoder does
    to them is mended with the rest. None do if it is left out."""
    autoencoder_share: float = Field(default=0.75, ge=0, le=1)
    """Of the small pictures in a batch."""
    noise: float = Field(default=0.01, ge=0, le=1)
    """Standard deviation of the most noise on the small pictures, in values in [0, 1]."""
    crop: int | None = Field(default=None, ge=16)
    """Edge of the windows to train on, in pixels of the large pictures; whole pictures if left out."""
    loss: UpscalerLossRecipe = UpscalerLossRecipe()

    @model_validator(mode="after")
    def _sizes_fit(self) -> "UpscalerRecipe":
        step = self.network.scale * self.network.unshuffle
        if self.data.size % step:
            raise ValueError(fitting_size(self.data.size, step))
        if self.crop is not None and (self.crop > self.data.size or self.crop % step):
            raise ValueError(f"crop {self.crop} is not a multiple of {step} up to the size {self.data.size}")
        return self


AnyRecipe = TypeVar("AnyRecipe", bound=Section)
STAGES: dict[
    str,
    type[AutoencoderRecipe] | type[TextRecipe] | type[UNetRecipe] | type[PreviewRecipe] | type[UpscalerRecipe],
] = {
    "autoencoder": AutoencoderRecipe,
    "text": TextRecipe,
    "unet": UNetRecipe,
    "preview": PreviewRecipe,
    "upscaler": UpscalerRecipe,
}


def read_recipe(path: Path, kind: type[AnyRecipe]) -> AnyRecipe:
    """A checked recipe from a .toml, .yaml or .yml file. Raises UserError naming the file, the key and the fault."""
    fields = _read_fields(path)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        value = "" if first["type"] in ("missing", "extra_forbidden") else f", which is {first['input']!r}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"Recipe {path}: {key}{value}: {first['msg']}{more}; correct it there.") from None


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
    except OSError as error:
        raise UserError(f"The recipe {refusal(error, path)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"The recipe {path} cannot be read as UTF-8 text ({error}): save it as UTF-8.") from None
    fields: Any
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            fields = yaml.safe_load(text)
        elif path.suffix == ".toml":
            fields = tomllib.loads(text)
        else:
            raise UserError(f"The recipe {path} ends in {path.suffix!r}: use .toml, .yaml or .yml.")
    except ImportError:
        raise UserError(f"The recipe {path} is YAML, which needs PyYAML: pip install 'diafano[train]'.") from None
    except UserError:
        raise
    except Exception as error:  # tomllib's and yaml's parse errors share no base class
        raise UserError(f"The recipe {path} is not valid {path.suffix[1:].upper()} ({error}): correct it.") from None
    if not isinstance(fields, dict):
        raise UserError(f"The recipe {path} holds no keys: `diafano recipes` writes some.")
    return fields
