"""How a prompt is read, to be shown: its texts, in which steps they hold, and each text's tokens with their weights.

The reading itself is `a1111_syntax`'s, `comfyui_syntax`'s and `prompt_embedding`'s; this is what they find.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from diafano.text_encoder.a1111_syntax import at_steps, composition
from diafano.text_encoder.prompt_embedding import Chunk, Weighting, chunks_of
from diafano.text_encoder.spelling import words
from diafano.text_encoder.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenRead:
    """One token of a prompt."""

    id: int
    weight: float


@dataclass(frozen=True)
class TextRead:
    """A text that holds in some of the steps."""

    text: str
    steps: tuple[int, ...]
    """From 1 on; never empty."""
    chunks: tuple[tuple[TokenRead, ...], ...]
    """Without start, end and padding."""
    cut: str = ""
    """What of the text no chunk has room for."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.chunks))


@dataclass(frozen=True)
class PartRead:
    """One of the prompts that are followed together."""

    weight: float
    texts: tuple[TextRead, ...]
    """In the order in which they first hold."""


def read_prompt(prompt: str, tokenizer: Tokenizer, weighting: Weighting | None, steps: int) -> list[PartRead]:
    """What the prompt says for a run of so many steps, read with A1111's syntax, ComfyUI's, or none (None)."""
    exact = weighting == "a1111"
    if weighting not in ("a1111", "diafano"):
        return [PartRead(1.0, (_text_read(prompt, range(1, steps + 1), tokenizer, weighting),))]
    parts = []
    for part in composition(prompt, exact=exact):
        holds: dict[str, list[int]] = {}
        for step, text in enumerate(at_steps(part.text, steps, exact=exact), start=1):
            holds.setdefault(text, []).append(step)
        texts = tuple(_text_read(text, when, tokenizer, weighting) for text, when in holds.items())
        parts.append(PartRead(part.weight, texts))
    return parts


def _text_read(text: str, steps: Sequence[int], tokenizer: Tokenizer, weighting: Weighting | None) -> TextRead:
    if weighting is None:
        room = tokenizer.length - 2
        tokens = tuple(TokenRead(token, 1.0) for token in tokenizer.encode(text)[:room])
        return TextRead(text, tuple(steps), (tokens,), tokenizer.text_cut(text))
    chunks = chunks_of(tokenizer, text, weighting)
    return TextRead(text, tuple(steps), tuple(_said(tokenizer, chunk) for chunk in chunks))


def _said(tokenizer: Tokenizer, chunk: Chunk) -> tuple[TokenRead, ...]:
    end = len(chunk.ids)
    while end > 1 and chunk.ids[end - 1] == tokenizer.pad_token:
        end -= 1
    if tokenizer.pad_token != tokenizer.end_token:
        end -= 1
    return tuple(map(TokenRead, chunk.ids[1:end], chunk.weights[1:end]))


def count_sentence(parts: Sequence[PartRead]) -> str:
    """``180 tokens in 3 chunks``, of the longest of a part's texts; of several parts, each."""
    longest = [max(part.texts, key=lambda text: text.tokens) for part in parts]
    return " AND ".join(f"{_count(text.tokens, 'token')} in {_count(len(text.chunks), 'chunk')}" for text in longest)


def steps_sentence(steps: Sequence[int]) -> str:
    """``steps 1 to 10``, ``step 3``, ``steps 1, 3, 5, ... (25)``."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) == steps[-1] - steps[0] + 1:
        return f"steps {steps[0]} to {steps[-1]}"
    shown = ", ".join(map(str, steps[:3]))
    return f"steps {shown}" if len(steps) <= 3 else f"steps {shown}, ... ({len(steps)})"


def chunk_sentence(tokenizer: Tokenizer, chunk: Sequence[TokenRead]) -> str:
    """The chunk's words, a "·" between the tokens of one, and weights as they are written: ``a (blue:1.2) fox``."""
    shown = []
    for weight, tokens in groupby(chunk, key=lambda token: token.weight):
        text = " ".join(words(tokenizer, (token.id for token in tokens)))
        shown.append(text if weight == 1.0 else f"({text}:{weight:.4g})")
    return " ".join(shown)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
