"""Conditioning: the embeddings of the prompt's texts that the UNet is given in each step, and how they guide.

A plain prompt is one text for all steps. A1111's syntax (`prompt_syntax`) can make several of it, at once (AND) or one
after the other ([a:b:0.5], [a|b]).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diafano.denoiser import Denoise, Denoiser, guided
from diafano.prompt_syntax import at_steps, composition

Embed = Callable[[str], Tensor]
"""A text -> its embeddings (tokens, width)."""


@dataclass(frozen=True)
class Conditioning:
    """The texts of one step."""

    positive: tuple[tuple[Tensor, float], ...]
    """Embeddings (tokens, width) and weights of the prompts that are followed together."""
    negative: Tensor
    """(tokens, width)."""

    def guide(self, denoiser: Denoiser, guidance: float, batch: int) -> Denoise:
        """``negative + guidance * sum of weight * (positive - negative)`` (Liu et al. 2022, arXiv 2206.01714)."""
        (first, weight), *others = self.positive
        if not others and len(first) == len(self.negative):
            return guided(denoiser, first.expand(batch, -1, -1), self.negative[None], guidance * weight)
        factors = [guidance * weight for _, weight in self.positive]

        def denoise(x: Tensor, sigma: float) -> Tensor:
            # One by one: texts of different lengths do not fit into one batch.
            positives = [denoiser(x, sigma, text.expand(len(x), -1, -1)) for text, _ in self.positive]
            clean = sum(factor * positive for factor, positive in zip(factors, positives, strict=True))
            rest = 1.0 - sum(factors)
            if rest != 0.0:
                clean = clean + rest * denoiser(x, sigma, self.negative.expand(len(x), -1, -1))
            assert isinstance(clean, Tensor)
            return clean

        return denoise


def conditioning_of_steps(prompt: str, negative: str, steps: int, embed: Embed) -> list[Conditioning]:
    """What A1111's syntax says for each step. Equal texts are embedded once."""
    known: dict[str, Tensor] = {}

    def look_up(text: str) -> Tensor:
        if text not in known:
            known[text] = embed(text)
        return known[text]

    parts = composition(prompt)
    texts = list(zip(*(at_steps(part.text, steps) for part in parts), strict=True))
    negatives = at_steps(negative, steps)
    made: dict[tuple[tuple[str, ...], str], Conditioning] = {}
    run = []
    for words, without in zip(texts, negatives, strict=True):
        if (words, without) not in made:
            positive = tuple((look_up(text), part.weight) for text, part in zip(words, parts, strict=True))
            made[words, without] = Conditioning(positive, look_up(without))
        run.append(made[words, without])
    return run


class Guide:
    """`denoise` for a whole run, by each step's conditioning. Whoever runs the sampler sets `step`, 0 at first."""

    def __init__(self, run: Sequence[Conditioning], denoiser: Denoiser, guidance: float, batch: int) -> None:
        self.step = 0
        guides = {id(one): one.guide(denoiser, guidance, batch) for one in run}
        self._steps = [guides[id(one)] for one in run]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self._steps[min(self.step, len(self._steps) - 1)](x, sigma)
