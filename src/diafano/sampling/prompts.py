"""The prompt's texts, encoded, that the network is told in each step, and how they guide it there.

A plain prompt is one text for all steps. A1111's syntax (`text_encoder.a1111_syntax`) can make several of it, at once
(AND) or one after the other ([a:b:0.5], [a|b]).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diafano.networks.conditioning import Conditioning
from diafano.sampling.clock import Clock
from diafano.sampling.denoiser import Denoiser
from diafano.sampling.guidance import GuidedDenoise, OnEstimates, classifier_free_guidance, rescaled
from diafano.text_encoder.a1111_syntax import at_steps, composition

Encode = Callable[[str], Conditioning]
"""A text -> what it tells the network, one row."""


@dataclass(frozen=True)
class StepPrompts:
    """The texts of one step."""

    positive: tuple[tuple[Conditioning, float], ...]
    """The prompts that are followed together, and their weights; one row for all pictures, or a row for each."""
    negative: Conditioning
    """One row for all pictures, or a row for each."""

    def guide(
        self, denoiser: Denoiser, batch: int, rescale: float = 0.0, on_estimates: OnEstimates | None = None
    ) -> GuidedDenoise:
        """``negative + guidance * sum of weight * (positive - negative)`` (Liu et al. 2022, arXiv 2206.01714).

        `rescale` is `guidance.rescaled`'s, with the sum at guidance 1 as the estimate with the prompt.
        """
        (first, weight), *others = self.positive
        if not others and first.shapes == self.negative.shapes and weight == 1.0:
            return classifier_free_guidance(denoiser, first.expand(batch), self.negative, rescale, on_estimates)

        def guided(x: Tensor, sigma: float, guidance: float) -> Tensor:
            # One by one: texts of different lengths do not fit into one batch.
            def ask(text: Conditioning) -> Tensor:
                return denoiser(x, sigma, text.expand(len(x)))

            towards = torch.stack([weight * ask(text) for text, weight in self.positive]).sum(dim=0)
            missing = 1.0 - sum(weight for _, weight in self.positive)
            rest = 1.0 - guidance * (1.0 - missing)
            if rest == 0.0 and (missing == 0.0 or rescale == 0.0):
                return guidance * towards
            without = ask(self.negative)
            if on_estimates is not None:
                on_estimates(sigma, without, towards + missing * without)
            clean = guidance * towards + rest * without
            if rescale == 0.0 or guidance in (0.0, 1.0):
                return clean
            return rescaled(denoiser.process, x, sigma, clean, towards + missing * without, rescale)

        return guided


def prompts_of_steps(
    prompt: str, negative: str, steps: int, encode: Encode, before: int = 0, *, exact: bool = False
) -> list[StepPrompts]:
    """What A1111's syntax says for each step, of a second pass after so many steps `before`.

    Equal texts are encoded once. `exact` is `a1111_syntax`'s.
    """
    known: dict[str, Conditioning] = {}

    def look_up(text: str) -> Conditioning:
        if text not in known:
            known[text] = encode(text)
        return known[text]

    parts = composition(prompt, exact=exact)
    texts = list(zip(*(at_steps(part.text, steps, before, exact=exact) for part in parts), strict=True))
    negatives = at_steps(negative, steps, before, exact=exact)
    made: dict[tuple[tuple[str, ...], str], StepPrompts] = {}
    run = []
    for words, without in zip(texts, negatives, strict=True):
        if (words, without) not in made:
            positive = tuple((look_up(text), part.weight) for text, part in zip(words, parts, strict=True))
            made[words, without] = StepPrompts(positive, look_up(without))
        run.append(made[words, without])
    return run


class StepGuidance:
    """`denoise` for a whole run: at each call the texts and the guidance of the clock's step."""

    def __init__(
        self,
        run: Sequence[StepPrompts],
        denoiser: Denoiser,
        guidance: Sequence[float],
        batch: int,
        rescale: float = 0.0,
        *,
        clock: Clock,
        on_estimates: OnEstimates | None = None,
    ) -> None:
        """`guidance` is that of each step, see `guidance.guidance_of_steps`."""
        self.clock = clock
        guides = {id(one): one.guide(denoiser, batch, rescale, on_estimates) for one in run}
        self._steps = [(guides[id(one)], strength) for one, strength in zip(run, guidance, strict=True)]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        guided, guidance = self._steps[min(self.clock.step, len(self._steps) - 1)]
        return guided(x, sigma, guidance)
