"""What a family is: one declaration of its parts, how a text is told to its network, and how its files look.

A family is a file of this room that declares one `Family`, and a row in `families.table`. Nothing else asks which
family a model is of: drawing, loading, saving and inspecting go by what is declared.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar

from torch import Tensor

from diafano.families.names import Table
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.conditioning import Conditioning
from diafano.networks.unet import UNetConfig
from diafano.noise.process import Process
from diafano.noise.schedule import ScheduleConfig
from diafano.text_encoder.bert import BERTConfig, BERTTextEncoder
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder
from diafano.text_encoder.prompt_embedding import Weighting
from diafano.text_encoder.tokenizer import Tokenizer

TextEncoder = CLIPTextEncoder | BERTTextEncoder
Guidance = Literal["classifier-free", "embedded"]
Made = TypeVar("Made", covariant=True)
Json = Mapping[str, Any]


# The parts of a model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPart:
    """A text encoder and the tokenizer whose ids it reads."""

    tokenizer: Tokenizer
    encoder: TextEncoder


@dataclass(frozen=True)
class Parts:
    """The parts of a model, whatever its family."""

    texts: Mapping[str, TextPart]
    """By their folder: "text_encoder", and "text_encoder_2" and so on where there are more."""
    network: Any
    """A `networks.conditioning.Network` of the family's own class; its `config` has `in_channels`, `out_channels`."""
    autoencoder: Autoencoder
    process: Process
    """It has a `config` as well."""


class Encode(Protocol):
    """How a text is told to a family's network."""

    def __call__(
        self,
        text: str,
        texts: Mapping[str, TextPart],
        *,
        clip_skip: int | None = None,
        weighting: Weighting | None = None,
        size: tuple[int, int] = (0, 0),
        negative: bool = False,
    ) -> Conditioning:
        """One row of conditioning, on the text encoder's device, in its number format.

        `clip_skip` counts layers from the end, 1 is the last; None: the family's own. `weighting` is the syntax of
        weights in the text; None: the text as it stands, cut where the text encoder ends. `size` is the picture's
        (width, height) in pixels, and `negative` whether the text is what is not wanted, for families that tell it.
        """
        ...


# Configurations without weights -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """One configuration a part; the defaults are Stable Diffusion v1's."""

    name: str
    size: tuple[int, int] = (512, 512)
    """(width, height) of the pictures it is made for, in pixels."""
    text_encoder: CLIPTextConfig | BERTConfig = CLIPTextConfig()  # noqa: RUF009 (frozen)
    unet: UNetConfig = UNetConfig()  # noqa: RUF009
    """The network's, by whatever name its family calls it."""
    autoencoder: AutoencoderConfig = AutoencoderConfig()  # noqa: RUF009
    schedule: ScheduleConfig = ScheduleConfig(final_sigma="first", spacing_said=False)  # noqa: RUF009
    """The noise process's."""
    family: str = "sd1"
    further_texts: Mapping[str, CLIPTextConfig | BERTConfig] = field(default_factory=dict)
    """Text encoders beside the first, by their folder."""

    @property
    def texts(self) -> dict[str, CLIPTextConfig | BERTConfig]:
        return {"text_encoder": self.text_encoder, **self.further_texts}

    @property
    def tokens(self) -> int:
        """Tokens a prompt has, start, end and padding included."""
        return min(77, self.text_encoder.positions)


# A folder of diffusers' ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadContext:
    """What a part's configuration is read from beside its JSON."""

    where: str
    """The file, for what is said of errors."""
    special_tokens: tuple[int, int, int] = (0, 0, 0)
    """Ids of start, end and padding of a text encoder's tokenizer: in old files they are wrong."""
    weights: Collection[str] = ()
    """Names of the tensors, as `FolderPart.ours` makes them; none where the configuration is read alone."""


@dataclass(frozen=True)
class WriteContext:
    """What a part's JSON says that its configuration does not."""

    size: tuple[int, int] = (512, 512)
    """(width, height) in pixels of the pictures that the model is made for."""
    factor: int = 8
    """Pixels of a picture's edge for one position of the latent."""
    dtype: str = "float32"
    """The stored weights'."""

    @property
    def latent(self) -> tuple[int, int]:
        """(width, height) of the latent."""
        return self.size[0] // self.factor, self.size[1] // self.factor


@dataclass(frozen=True)
class FolderPart(Generic[Made]):
    """How one class of parts lies in a folder of its own: a JSON file, and weights unless it has none."""

    library: str
    class_name: str
    """Library and class, as model_index.json names them."""
    config_class: type[Any]
    """Of our configuration, which the part that is made of it has as `config`."""
    make: Callable[[Any], Made]
    read: Callable[[Json, ReadContext], Any]
    """Their JSON -> our configuration. Raises UserError, naming the file, for what this program cannot do."""
    write: Callable[[Any, WriteContext], Json]
    """`read` reversed."""
    stem: str | None = None
    """What the files of weights are called; None: there are none."""
    file: str = "config.json"
    model_type: str | None = None
    """How the JSON calls this class where a folder may hold one of several."""
    tokenizer: str | None = None
    """Of a text encoder: the class of its tokenizer."""
    prefix: str = ""
    """What is written before our names of the tensors."""
    ours: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Stored tensors under our names, in any spelling that the libraries ever had."""


# A single file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundPart:
    """One network of a single file: its shape, on the meta device, and where each of its tensors is kept."""

    network: Any
    wanted: Mapping[str, Tensor]
    """The network's own tensors."""
    table: Table

    def weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors, as views of the file's, as many as it has."""
        return {
            ours: stored.ours(tensors[stored.name]) for ours, stored in self.table.items() if stored.name in tensors
        }


@dataclass(frozen=True)
class FilePart:
    """How one part lies in a single file."""

    label: str
    """As it is called in a sentence."""
    prefix: str
    """What the names of its tensors begin with."""
    find: Callable[[Mapping[str, Tensor], Path], FoundPart | None]
    """The part in a file's tensors, None if it is not there. Raises UserError where it is there in part only."""
    table: Callable[[Any], Table]
    """A network -> where its tensors are written."""


@dataclass(frozen=True)
class Prediction:
    """What the network in a single file predicts."""

    predicts: str
    """"noise" or "v", or what else the family's networks predict."""
    evidence: str
    """Why that is believed."""
    certain: bool = True
    """Whether the evidence is more than a guess."""


CLAIMS: Final = "diafano.claims"
"""See `SingleFile.prediction`."""


@dataclass(frozen=True)
class SingleFile:
    """How a family's models lie in one file, which holds weights alone: what it cannot say is taken for granted."""

    parts: Mapping[str, FilePart]
    """The network's, under the name of its folder, "autoencoder", and the text encoders, under those of theirs."""
    fits: Callable[[Mapping[str, Tensor]], bool]
    """Whether the tensors are of this family; of several the youngest has them, the last of the table."""
    prediction: Callable[[Mapping[str, Tensor], Mapping[str, Any], Any, str | None], Prediction]
    """Tensors, metadata, the network's configuration (None: the file has no network), what someone asked for.

    Under `CLAIMS` the metadata have what is said of the file elsewhere, a list of `Prediction`."""
    process: Callable[[Mapping[str, Tensor], str], Any]
    """Tensors, what is predicted -> the noise process's configuration."""
    size: Callable[[str], tuple[int, int]]
    """What is predicted -> (width, height) in pixels of the pictures that it was trained for."""
    tokenizer: str
    """Repository on the hub with the tokenizer that it was trained with."""
    pads_with: Callable[[Tokenizer], int] = lambda tokenizer: tokenizer.end_token
    """The id that it was trained to see after a text."""
    written: Callable[[Any], tuple[dict[str, str], dict[str, Tensor]]] = lambda process: ({}, {})
    """The noise process's configuration -> metadata and tensors that say it."""
    unsayable: Callable[[Parts], Iterable[tuple[str, object, object]]] = lambda parts: ()
    """(what, what it is, what readers take it for) of everything that the form does not say.

    Raises UserError for parts that it has no names for."""
    kinds: Mapping[int, str] = field(default_factory=lambda: {4: "text to image"})
    """Input channels of the network -> what it draws from."""
    drawn: Collection[int] = (4,)
    """Input channels of those that this program draws with."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of names that some programs write -> the usual ones."""
    spare: Callable[[Mapping[str, Tensor], Collection[str]], Mapping[str, str]] = lambda tensors, used: {}
    """Tensors, names of those in use -> beginnings of names that are known and not needed, and why."""


# The whole ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Family:
    """All that is special about one family of models. What is left out is as in Stable Diffusion 1."""

    name: str
    """As in `families.table.FAMILIES`: "sd1"."""
    label: str
    """As people call it: "Stable Diffusion 1"."""
    presets: Sequence[Preset]
    """Configurations of all parts, the family's own first."""
    encode: Encode
    check: Callable[[Parts], None]
    """Raises UserError, one sentence, where one part does not take what the part before it gives."""
    belongs: Callable[[Parts], bool]
    """Whether parts of which nobody says the family are of this one."""
    folders: Mapping[str, tuple[FolderPart[Any], ...]]
    """Folder of a model in diffusers' format -> the classes of parts that may lie in it."""
    index: Callable[[Parts], Json]
    """What model_index.json says besides the parts' classes: the pipeline's class and so on."""
    single_file: SingleFile | None = None
    """None: there is no such form."""
    network: str = "unet"
    """The network's folder."""
    autoencoder: str = "vae"
    """The autoencoder's folder."""
    process: str = "scheduler"
    """The noise process's folder."""
    network_label: str = "UNet"
    """As the network is called in a sentence."""
    tokenizers: Mapping[str, str] = field(default_factory=lambda: {"text_encoder": "tokenizer"})
    """Folder of a text encoder -> its tokenizer's."""
    guidance: Sequence[Guidance] = ("classifier-free",)
    """How it is guided: by asking the network twice, or by a strength that the network is told."""
    patch: int = 1
    """Edge of what the network takes as one token, in positions of the latent."""
    trained: Callable[[Any], str] = lambda process: "Trained with noise"
    """The noise process's configuration -> how the network was trained, in a few words."""
    lora_spellings: Callable[[Sequence[str]], Iterator[tuple[str, str]]] = lambda layers: zip(
        layers, layers, strict=True
    )
    """All layers, called by the folder of their part as in ``unet.conv_in`` -> each with what files of LoRAs may call
    it, a pair for every name."""

    def size_step(self, parts: Parts) -> int:
        """Width and height of a picture must be multiples of this many pixels."""
        return parts.autoencoder.factor * self.patch

    def __deepcopy__(self, memo: object) -> Self:
        """A copied model is of the same family."""
        return self
