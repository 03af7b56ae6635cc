"""The networks in an original single file, read off the names and shapes of its tensors.

What even those do not say is CompVis' and Stability's choice for the family: the heads here, the groups of norms and
the scale of latents by the defaults of the configurations.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from diafano.engine.devices import on_meta
from diafano.errors import UserError
from diafano.families import names as table
from diafano.families.family import FoundPart
from diafano.networks.autoencoder import Autoencoder, AutoencoderConfig
from diafano.networks.unet import UNet, UNetConfig
from diafano.text_encoder.clip import CLIPTextConfig, CLIPTextEncoder

HEAD_WIDTH = 64  # of every head in CLIP, and of the UNet's in 2.x
SD1_HEADS = 8  # of every level of the UNet in 1.x
OPEN_CLIP_LAYERS = 24  # the last is stored but not used


def find_unet(tensors: Mapping[str, Tensor], path: Path) -> FoundPart | None:
    """The UNet of the file, if it has one.

    This and the others raise UserError, naming `path`, for a network that is there in part only.
    """
    if not any(name.startswith(table.UNET) for name in tensors):
        return None
    config = read_unet_shape(tensors, path)
    with on_meta():
        unet = UNet(config)
    wanted = unet.state_dict()
    return FoundPart(unet, wanted, table.unet_table(config, wanted))


def find_autoencoder(tensors: Mapping[str, Tensor], path: Path) -> FoundPart | None:
    """The autoencoder of the file, if it has one."""
    if f"{table.AUTOENCODER}decoder.conv_in.weight" not in tensors:
        return None
    config = read_autoencoder_shape(tensors, path)
    with on_meta():
        autoencoder = Autoencoder(config)
    wanted = autoencoder.state_dict()
    return FoundPart(autoencoder, wanted, table.autoencoder_table(config, wanted))


def find_text_encoder(tensors: Mapping[str, Tensor], path: Path) -> FoundPart | None:
    """The text encoder of the file, if it has one, under any of its prefixes.

    The ids of its special tokens are the usual ones; the tokenizer may say otherwise.
    """
    if f"{table.OPEN_CLIP}token_embedding.weight" in tensors:
        return _open_clip_part(tensors, path)
    for prefix in (table.CLIP, table.CLIP_UNPREFIXED):
        if f"{prefix}embeddings.token_embedding.weight" not in tensors:
            continue
        with incomplete("text encoder", path):
            vocabulary, width = tensors[f"{prefix}embeddings.token_embedding.weight"].shape
            config = CLIPTextConfig(
                vocabulary=vocabulary,
                width=width,
                mlp_width=tensors[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
                layers=count(tensors, f"{prefix}encoder.layers."),
                heads=max(1, width // HEAD_WIDTH),
                positions=tensors[f"{prefix}embeddings.position_embedding.weight"].shape[0],
                start_token=vocabulary - 2,
                end_token=vocabulary - 1,
                pad_token=vocabulary - 1,
            )
        with on_meta():
            encoder = CLIPTextEncoder(config)
        wanted = encoder.state_dict()
        return FoundPart(encoder, wanted, table.clip_table(wanted, prefix))
    return None


def _open_clip_part(tensors: Mapping[str, Tensor], path: Path) -> FoundPart:
    start = f"{table.OPEN_CLIP}transformer.resblocks."
    layers = count(tensors, start)
    # A whole CLIP brings its head and the last layer, which Stable Diffusion 2 leaves out; a converted one does not.
    whole = f"{table.OPEN_CLIP}text_projection" in tensors and layers != OPEN_CLIP_LAYERS - 1
    if layers == OPEN_CLIP_LAYERS or whole:
        layers -= 1
    with incomplete("text encoder", path):
        vocabulary, width = tensors[f"{table.OPEN_CLIP}token_embedding.weight"].shape
        config = CLIPTextConfig(
            vocabulary=vocabulary,
            width=width,
            mlp_width=tensors[f"{start}0.mlp.c_fc.weight"].shape[0],
            layers=layers,
            heads=max(1, width // HEAD_WIDTH),
            positions=tensors[f"{table.OPEN_CLIP}positional_embedding"].shape[0],
            activation="gelu",
            start_token=vocabulary - 2,
            end_token=vocabulary - 1,
            pad_token=0,
        )
    with on_meta():
        encoder = CLIPTextEncoder(config)
    wanted = encoder.state_dict()
    return FoundPart(encoder, wanted, table.open_clip_table(wanted, layers))


def read_unet_shape(tensors: Mapping[str, Tensor], path: Path) -> UNetConfig:
    """The UNet's configuration, read off the shapes of an original file's tensors."""
    inside = {name.removeprefix(table.UNET): tensor for name, tensor in tensors.items() if name.startswith(table.UNET)}
    blocks = count(inside, "input_blocks.")
    downs = [block for block in range(blocks) if f"input_blocks.{block}.0.op.weight" in inside]
    layers = (downs[0] if downs else blocks) - 1
    first = [1 + level * (layers + 1) for level in range(len(downs) + 1)]  # each level's first block
    with incomplete("UNet", path, table.UNET):
        widths = tuple(inside[f"input_blocks.{block}.0.out_layers.3.weight"].shape[0] for block in first)
        text_width = inside["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
        linear = inside["middle_block.1.proj_in.weight"].ndim == 2
        return UNetConfig(
            in_channels=inside["input_blocks.0.0.weight"].shape[1],
            out_channels=inside["out.2.weight"].shape[0],
            widths=widths,
            layers=layers,
            attention=tuple(f"input_blocks.{block}.1.norm.weight" in inside for block in first),
            heads=tuple(max(1, width // HEAD_WIDTH) for width in widths) if linear else (SD1_HEADS,) * len(widths),
            text_width=text_width,
            linear_projection=linear,
        )


def read_autoencoder_shape(tensors: Mapping[str, Tensor], path: Path) -> AutoencoderConfig:
    """The autoencoder's configuration, read off the shapes of an original file's tensors."""
    start = f"{table.AUTOENCODER}encoder.down."
    levels = count(tensors, start)
    with incomplete("autoencoder", path):
        return AutoencoderConfig(
            widths=tuple(tensors[f"{start}{level}.block.0.conv2.weight"].shape[0] for level in range(levels)),
            layers=count(tensors, f"{start}0.block."),
            latent_channels=tensors[f"{table.AUTOENCODER}decoder.conv_in.weight"].shape[1],
            picture_channels=tensors[f"{table.AUTOENCODER}encoder.conv_in.weight"].shape[1],
            middle_attention=f"{table.AUTOENCODER}decoder.mid.attn_1.q.weight" in tensors,
        )


def count(names: Iterable[str], prefix: str) -> int:
    """How many numbers follow `prefix` among the names, counted from 0."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


@contextmanager
def incomplete(part: str, path: Path, prefix: str = "") -> Iterator[None]:
    """A tensor that is looked for inside and missing makes `part` incomplete: one sentence."""
    try:
        yield
    except (KeyError, ValueError, IndexError) as error:
        name = error.args[0] if isinstance(error, KeyError) else error
        raise UserError(f"{path} lacks {prefix}{name}: the {part} is incomplete, fetch it again") from None
