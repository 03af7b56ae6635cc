"""Text encoder: CLIP's text transformer (Radford et al. 2021), a causal transformer with norms before each part.

Attribute names are those of transformers' ``CLIPTextModel`` without its ``text_model.`` prefix, so that a stored
text encoder needs no table of names. Ids are (batch, n), embeddings (batch, n, width); n is 77 in Stable Diffusion.
"""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from diafano.errors import UserError
from diafano.networks.layers import attend
from diafano.text_encoder.added_words import TokenEmbedding
from diafano.text_encoder.checks import check_text_config


class CLIPTextConfig(BaseModel):
    """Shape of a CLIP text encoder; the defaults are ViT-L/14's, Stable Diffusion v1's (123,060,480 parameters)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: PositiveInt = 49408
    """Number of token ids."""
    width: PositiveInt = 768
    mlp_width: PositiveInt = 3072
    layers: PositiveInt = 12
    heads: PositiveInt = 12
    positions: PositiveInt = 77
    """Most tokens in a text, start and end included."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """OpenAI's models use the quick GELU, OpenCLIP's (Stable Diffusion v2) the exact one."""
    norm_eps: PositiveFloat = 1e-5
    start_token: NonNegativeInt = 49406
    end_token: NonNegativeInt = 49407
    pad_token: NonNegativeInt = 49407

    @model_validator(mode="after")
    def _check(self) -> "CLIPTextConfig":
        check_text_config(self)
        return self


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the approximation of GELU that OpenAI trained CLIP with (Hendrycks & Gimpel 2016)."""
    return x * torch.sigmoid(1.702 * x)


class CLIPEmbeddings(nn.Module):
    """One embedding per token plus one per position: ids (batch, n) -> (batch, n, width)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = TokenEmbedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)

    def forward(self, ids: Tensor) -> Tensor:
        count, positions = ids.shape[1], self.position_embedding.num_embeddings
        if count > positions:
            raise UserError(f"A text of {count} tokens is longer than the text encoder's {positions}; cut it first.")
        embedded: Tensor = self.token_embedding(ids) + self.position_embedding.weight[:count]
        return embedded


class CLIPAttention(nn.Module):
    """Multi-head attention of each token to itself and those before it: (batch, n, width) -> same."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (  # (batch, heads, n, head width)
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = attend(query, key, value, causal=True)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))  # (batch, n, width)
        return out


class CLIPMLP(nn.Module):
    """Two linear layers, each token by itself: (batch, n, width) -> (batch, n, mlp_width) -> (batch, n, width)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.activation = quick_gelu if config.activation == "quick_gelu" else F.gelu
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(self.activation(self.fc1(x)))
        return x


class CLIPLayer(nn.Module):
    """Attention, then MLP, each on a normed copy and added to what came in: (batch, n, width) -> same."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.self_attn = CLIPAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = CLIPMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        x = x + self.mlp(self.layer_norm2(x))
        return x


class CLIPEncoder(nn.Module):
    """The stack of layers. ``count`` of them run: (batch, n, width) -> same."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CLIPLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, count: int) -> Tensor:
        for layer in list(self.layers)[:count]:
            x = layer(x)
        return x


class CLIPTextEncoder(nn.Module):
    """Token ids -> one embedding per token, each of which has seen the tokens up to its own."""

    def __init__(self, config: CLIPTextConfig) -> None:
        """Random weights, as CLIP initialises them for training."""
        super().__init__()
        self.config = config
        self.embeddings = CLIPEmbeddings(config)
        self.encoder = CLIPEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        _initialise(self)

    @property
    def token_embedding(self) -> TokenEmbedding:
        """Where words are added."""
        return self.embeddings.token_embedding

    def forward(self, ids: Tensor, skip: int = 1) -> Tensor:
        """Int64 ids (batch, n) -> (batch, n, width).

        ``skip`` counts layers from the end as "CLIP skip" does: 1 takes the last layer's output, 2 that of the layer
        before. The final norm is applied to either, and the layers left out are not run.
        """
        layers = self.config.layers
        if not 1 <= skip <= layers:
            raise UserError(f"CLIP skip {skip} is not possible with {layers} layers; give a number from 1 to {layers}.")
        x: Tensor = self.embeddings(ids)
        x = self.encoder(x, layers - skip + 1)
        x = self.final_layer_norm(x)
        return x

    def pooled(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The whole text in one vector: hidden (batch, n, width) at each text's first end token -> (batch, width).

        A row of ids without an end token gives its first position, as in transformers.
        """
        first_end = (ids == self.config.end_token).int().argmax(dim=1)  # argmax of equal values is the first
        return hidden[torch.arange(len(hidden), device=hidden.device), first_end]


@torch.no_grad()
def _initialise(encoder: CLIPTextEncoder) -> None:
    """CLIP's scales: what a layer adds shrinks with the number of layers, so that their sum starts near unit size."""
    width, depth = encoder.config.width, (2 * encoder.config.layers) ** -0.5
    nn.init.normal_(encoder.embeddings.token_embedding.weight, std=0.02)
    nn.init.normal_(encoder.embeddings.position_embedding.weight, std=0.01)
    for module in encoder.modules():
        if isinstance(module, CLIPAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                nn.init.normal_(projection.weight, std=width**-0.5)
            nn.init.normal_(module.out_proj.weight, std=width**-0.5 * depth)
        elif isinstance(module, CLIPMLP):
            nn.init.normal_(module.fc1.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(module.fc2.weight, std=width**-0.5 * depth)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def strip_text_model_prefix(names: Iterable[str]) -> dict[str, str]:
    """Stored name -> this module's name, for files written by transformers before version 5 and since.

    Drops the prefix ``text_model.`` where there is one, and leaves out ``position_ids``, which old files store though
    it only counts 0, 1, 2, ...
    """
    return {name: name.removeprefix("text_model.") for name in names if name.rpartition(".")[2] != "position_ids"}
