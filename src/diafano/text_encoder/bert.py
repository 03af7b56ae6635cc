"""Text encoder: BERT (Devlin et al. 2019), a bidirectional transformer with norms after each part.

Attribute names are those of transformers' ``BertModel`` without a ``bert.`` prefix, so that a stored encoder needs no
table of names. Ids are (batch, n), embeddings (batch, n, width); n is 77 here, as for CLIP, and may be up to 512.
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from diafano.errors import UserError
from diafano.text_encoder.added_words import TokenEmbedding
from diafano.text_encoder.checks import check_text_config


class BERTConfig(BaseModel):
    """Shape of a BERT text encoder; the defaults are base-uncased's (width 768; 108,891,648 parameters, no pooler)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: PositiveInt = 30522
    """Number of token ids."""
    width: PositiveInt = 768
    mlp_width: PositiveInt = 3072
    layers: PositiveInt = 12
    heads: PositiveInt = 12
    positions: PositiveInt = 512
    """Most tokens in a text, start and end included."""
    token_types: PositiveInt = 2
    """Kinds of segment (BERT reads pairs of sentences); a prompt is all of type 0."""
    pooler: bool = False
    """Whether there is a linear layer and tanh on the first token's state, for `pooled`."""
    norm_eps: PositiveFloat = 1e-12
    start_token: NonNegativeInt = 101
    end_token: NonNegativeInt = 102
    pad_token: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check(self) -> "BERTConfig":
        check_text_config(self)
        return self


class BERTEmbeddings(nn.Module):
    """Token, position and segment embeddings, summed and normed: ids (batch, n) -> (batch, n, width)."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.word_embeddings = TokenEmbedding(config.vocabulary, config.width)
        self.position_embeddings = nn.Embedding(config.positions, config.width)
        self.token_type_embeddings = nn.Embedding(config.token_types, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, ids: Tensor, token_types: Tensor | None) -> Tensor:
        count, positions = ids.shape[1], self.position_embeddings.num_embeddings
        if count > positions:
            raise UserError(f"A text of {count} tokens is longer than the text encoder's {positions}; cut it first.")
        types = torch.zeros_like(ids) if token_types is None else token_types
        x: Tensor = self.word_embeddings(ids) + self.token_type_embeddings(types)
        x = self.LayerNorm(x + self.position_embeddings.weight[:count])
        return x


class BERTSelfAttention(nn.Module):
    """Multi-head attention of each token to all that the mask allows: (batch, n, width) -> same."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (  # (batch, heads, n, head width)
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return attended.transpose(1, 2).flatten(2)  # (batch, n, width)


class BERTProjection(nn.Module):
    """A linear layer, added to the shortcut, then the norm: (batch, n, in_width), (batch, n, width) -> the latter."""

    def __init__(self, in_width: int, config: BERTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        x = self.LayerNorm(self.dense(x) + shortcut)
        return x


class BERTLayer(nn.Module):
    """Attention, then MLP, each added to what came in and normed after: (batch, n, width) -> same."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        # The nesting is that of the stored names: attention.self.query, attention.output.dense, intermediate.dense.
        self.attention = nn.ModuleDict(
            {"self": BERTSelfAttention(config), "output": BERTProjection(config.width, config)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.width, config.mlp_width)})
        self.output = BERTProjection(config.mlp_width, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        x = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return x


class BERTEncoder(nn.Module):
    """The stack of layers. ``count`` of them run: (batch, n, width) -> same."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BERTLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor, count: int) -> Tensor:
        for layer in list(self.layer)[:count]:
            x = layer(x, mask)
        return x


class BERTPooler(nn.Module):
    """A linear layer and tanh on the first token's state: (batch, width) -> same."""

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x))


class BERTTextEncoder(nn.Module):
    """Token ids -> one embedding per token, each of which has seen the whole text and no padding."""

    def __init__(self, config: BERTConfig) -> None:
        """Random weights, as BERT initialises them for training."""
        super().__init__()
        self.config = config
        self.embeddings = BERTEmbeddings(config)
        self.encoder = BERTEncoder(config)
        self.pooler = BERTPooler(config) if config.pooler else None
        self.apply(_initialise)

    @property
    def token_embedding(self) -> TokenEmbedding:
        """Where words are added."""
        return self.embeddings.word_embeddings

    def forward(
        self, ids: Tensor, skip: int = 1, *, mask: Tensor | None = None, token_types: Tensor | None = None
    ) -> Tensor:
        """Int64 ids (batch, n) -> (batch, n, width).

        ``mask`` (batch, n) is True where a token may be attended to; left out, that is everywhere but at padding.
        ``token_types`` (batch, n) numbers the segments; left out, all is segment 0. ``skip`` counts layers from the
        end: 1 takes the last layer's output, 2 that of the layer before, and the layers left out are not run.
        """
        layers = self.config.layers
        if not 1 <= skip <= layers:
            raise UserError(f"Skip {skip} is not possible with {layers} layers; give a number from 1 to {layers}.")
        mask = ids != self.config.pad_token if mask is None else mask.to(torch.bool)
        x: Tensor = self.embeddings(ids, token_types)
        x = self.encoder(x, mask, layers - skip + 1)
        return x

    def pooled(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The whole text in one vector: hidden (batch, n, width) at the first token, [CLS] -> (batch, width).

        Goes through the pooler where the model has one. ``ids`` are not needed; CLIP's encoder needs them.
        """
        first = hidden[:, 0]
        if self.pooler is not None:
            first = self.pooler(first)
        return first


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases (Devlin et al. 2019's code)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
