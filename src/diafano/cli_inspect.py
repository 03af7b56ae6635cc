"""`diafano inspect`: a model's parts, their sizes and the shapes on a picture's way through them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diafano.errors import UserError

if TYPE_CHECKING:
    from diafano.presets import Preset


def inspect(name: str, *, size: str | None) -> None:
    """Print the model's table. `name` is a preset or the folder of a model; `size` is "WxH" or the model's own."""
    from diafano.presets import parameter_counts, shapes
    from diafano.request import ModelCard, checked

    preset = find_model(name)
    width, height = preset.size if size is None else checked(ModelCard, {"name": preset.name, "size": size}).size

    rows = [("Part", "takes", "gives", "parameters")]
    for row in shapes(preset, width, height):
        rows.append((row.part, row.takes, row.gives, "" if row.parameters is None else f"{row.parameters:,}"))
    counts = parameter_counts(preset)
    rows.append(("All parts", "", "", f"{sum(counts.values()):,}"))

    config = preset.schedule
    print(f"{preset.name}: a picture of {width}x{height} on its way through the model, batch dimension left out\n")
    _print_table(rows)
    print(f"\nParameters: {', '.join(f'{part} {count:,}' for part, count in counts.items())}")
    print(f"Trained on {config.steps} steps of noise ({config.kind}), to predict {config.prediction}")


def find_model(name: str) -> "Preset":
    """The configuration that `name` means: a preset's, the shipped model's, or that of a model's folder."""
    from diafano import EMBEDDED
    from diafano.presets import PRESETS, find_preset

    if name == "embedded" and (EMBEDDED / "model_index.json").is_file():
        return read_preset(EMBEDDED)  # what really ships, not what the preset says should
    if name in PRESETS:
        return find_preset(name)
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(f"there is no model {name!r}: give one of {', '.join(PRESETS)}, or the folder of a model")
    return read_preset(folder)


def read_preset(folder: Path) -> "Preset":
    """The configuration in a diffusers folder. Raises UserError, naming the file, for what is missing or unknown."""
    from diafano.checkpoints import configs
    from diafano.checkpoints.reading import read_json
    from diafano.presets import Preset
    from diafano.request import ModelCard, checked
    from diafano.text_encoder.bert import BERTConfig
    from diafano.text_encoder.clip import CLIPTextConfig
    from diafano.text_encoder.tokenizer import Tokenizer

    unet_json, autoencoder_json, text_json, schedule_json = (
        folder / name
        for name in (
            "unet/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "scheduler/scheduler_config.json",
        )
    )
    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    tokens = (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token)
    settings = read_json(text_json)
    text_encoder: CLIPTextConfig | BERTConfig
    if settings.get("model_type") == "bert":
        text_encoder = configs.read_bert_config(settings, tokens, False, str(text_json))
    else:
        text_encoder = configs.read_clip_config(settings, tokens, str(text_json))

    autoencoder = configs.read_autoencoder_config(read_json(autoencoder_json), str(autoencoder_json))
    unet_settings = read_json(unet_json)
    card = folder / "diafano.json"
    if card.is_file():
        size = checked(ModelCard, read_json(card)).size
    else:
        edge = unet_settings.get("sample_size", 64)
        height, width = edge if isinstance(edge, list) else (edge, edge)
        size = (width * autoencoder.factor, height * autoencoder.factor)
    return Preset(
        name=folder.resolve().name,
        size=size,
        text_encoder=text_encoder,
        unet=configs.read_unet_config(unet_settings, str(unet_json)),
        autoencoder=autoencoder,
        schedule=configs.read_schedule_config(read_json(schedule_json), str(schedule_json)),
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """The last column flush right, the others flush left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        print("  ".join([*cells, row[-1].rjust(widths[-1])]).rstrip())
