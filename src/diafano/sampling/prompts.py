"""Conditioning: the embeddings of the prompt's texts that the UNet is given in each step, and how they guide.

A plain prompt is one text for all steps. A1111's syntax (`text_encoder.a1111_syntax`) can make several of it, at
once (AND) or one after the other ([a:b:0.5], [a|b]).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diafano.sampling.denoiser import Denoiser
from diafano.sampling.guidance import GuidedDenoise, classifier_free_guidance, rescaled
from diafano.text_encoder.a1111_syntax import at_steps, composition

Embed = Callable[[str], Tensor]
"""A text -> its embeddings (tokens, width)."""


@dataclass(frozen=True)
class StepPrompts:
    """The texts of one step."""

    positive: tuple[tuple[Tensor, float], ...]
    """Embeddings (tokens, width) and weights of the prompts that are followed together."""
    negative: Tensor
    """(tokens, width)."""

    def guide(self, denoiser: Denoiser, batch: int, rescale: float = 0.0) -> GuidedDenoise:
        """``negative + guidance * sum of weight * (positive - negative)`` (Liu et al. 2022, arXiv 2206.01714).

        `rescale` is `guidance.rescaled`'s, with the sum at guidance 1 as the estimate with the prompt.
        """
        (first, weight), *others = self.positive
        if not others and len(first) == len(self.negative) and weight == 1.0:
            return classifier_free_guidance(denoiser, first.expand(batch, -1, -1), self.negative[None], rescale)

        def guided(x: Tensor, sigma: float, guidance: float) -> Tensor:
            # One by one: texts of different lengths do not fit into one batch.
            def ask(text: Tensor) -> Tensor:
                return denoiser(x, sigma, text.expand(len(x), -1, -1))

            towards = torch.stack([weight * ask(text) for text, weight in self.positive]).sum(dim=0)
            missing = 1.0 - sum(weight for _, weight in self.positive)
            rest = 1.0 - guidance * (1.0 - missing)
            if rest == 0.0 and (missing == 0.0 or rescale == 0.0):
                return guidance * towards
            without = ask(self.negative)
            clean = guidance * towards + rest * without
            if rescale == 0.0 or guidance in (0.0, 1.0):
                return clean
            return rescaled(denoiser, x, sigma, clean, towards + missing * without, rescale)

        return guided


def prompts_of_steps(prompt: str, negative: str, steps: int, embed: Embed, before: int = 0) -> list[StepPrompts]:
    """What A1111's syntax says for each step, of a second pass after so many steps `before`.

    Equal texts are embedded once.
    """
    known: dict[str, Tensor] = {}

    def look_up(text: str) -> Tensor:
        if text not in known:
            known[text] = embed(text)
        return known[text]

    parts = composition(prompt)
    texts = list(zip(*(at_steps(part.text, steps, before) for part in parts), strict=True))
    negatives = at_steps(negative, steps, before)
    made: dict[tuple[tuple[str, ...], str], StepPrompts] = {}
    run = []
    for words, without in zip(texts, negatives, strict=True):
        if (words, without) not in made:
            positive = tuple((look_up(text), part.weight) for text, part in zip(words, parts, strict=True))
            made[words, without] = StepPrompts(positive, look_up(without))
        run.append(made[words, without])
    return run


class StepGuidance:
    """`denoise` for a whole run, by each step's conditioning. Whoever runs the sampler sets `step`, 0 at first."""

    def __init__(
        self,
        run: Sequence[StepPrompts],
        denoiser: Denoiser,
        guidance: Sequence[float],
        batch: int,
        rescale: float = 0.0,
    ) -> None:
        """`guidance` is that of each step, see `guidance.guidance_of_steps`."""
        self.step = 0
        guides = {id(one): one.guide(denoiser, batch, rescale) for one in run}
        self._steps = [(guides[id(one)], strength) for one, strength in zip(run, guidance, strict=True)]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        guided, guidance = self._steps[min(self.step, len(self._steps) - 1)]
        return guided(x, sigma, guidance)
