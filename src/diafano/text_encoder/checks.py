"""What a text encoder's configuration must not say, whichever encoder it is."""

from typing import Protocol


class TextConfig(Protocol):
    """What the configurations of all text encoders have."""

    vocabulary: int
    width: int
    heads: int
    start_token: int
    end_token: int
    pad_token: int


def check_text_config(config: TextConfig) -> None:
    """Raises ValueError where heads do not share the width, or a token has no embedding."""
    if config.width % config.heads:
        raise ValueError(f"width {config.width} cannot be split into {config.heads} heads; make it a multiple")
    for role in ("start_token", "end_token", "pad_token"):
        if getattr(config, role) >= config.vocabulary:
            raise ValueError(
                f"{role} {getattr(config, role)} is not among the {config.vocabulary} ids of the vocabulary"
            )
