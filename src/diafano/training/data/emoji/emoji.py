"""Emoji scenes as captioned pictures, made on the fly and without end."""

from collections.abc import Mapping, Sequence

import numpy as np

from diafano.errors import UserError
from diafano.training.data.emoji.arrangements import Arrangement
from diafano.training.data.emoji.languages import GRAMMARS, Language
from diafano.training.data.emoji.scene_sampler import SceneSampler
from diafano.training.data.emoji.scenes import RenderedScene, Scene, render
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.data.example import Example


class EmojiScenes:
    """Example number ``index`` is drawn from (seed, index) alone, so workers, order and restarts do not change it."""

    def __init__(
        self,
        sprites: Sprites,
        objects: Sequence[str] | None = None,
        size: int = 128,
        seed: int = 0,
        languages: Sequence[Language] = ("en",),
        held_out: bool = False,
        snap: int = 1,
        arrangement: Arrangement = "free",
        mix: Mapping[str, float] | None = None,
    ) -> None:
        if seed < 0:
            raise UserError(f"Emoji scenes cannot be drawn with the seed {seed}: give 0 or more.")
        self.sprites = sprites
        self.size = size
        self.snap = snap
        self.arrangement: Arrangement = arrangement
        self.seed = seed
        self.grammars = [GRAMMARS[language]() for language in languages]
        self.sampler = SceneSampler(tuple(sprites) if objects is None else objects, held_out, mix=mix)
        for name in self.sampler.objects:
            sprites[name]  # an object without a sprite is an error now, not in the middle of training

    def example(self, index: int) -> Example:
        """Picture (size, size, 3) and caption number ``index``, from 0 without end."""
        rendered, caption = self.described(index)
        return Example(rendered.pixels, caption)

    def described(self, index: int) -> tuple[RenderedScene, str]:
        """The same, with what the picture shows and where."""
        rng = np.random.default_rng((self.seed, index))
        scene = self.sampler.sample(rng)
        rendered = render(scene, self.sprites, self.size, rng, snap=self.snap, arrangement=self.arrangement)
        return rendered, self._worded(scene, index, 0)

    def caption(self, index: int, wording: int = 0) -> str:
        """Example number ``index`` in words; ``wording`` numbers the ways to say it, 0 is the example's own."""
        return self._worded(self.sampler.sample(np.random.default_rng((self.seed, index))), index, wording)

    def _worded(self, scene: Scene, index: int, wording: int) -> str:
        """In one of the languages, each as often."""
        rng = np.random.default_rng((self.seed, index, wording))
        grammar = self.grammars[int(rng.integers(len(self.grammars)))]
        return grammar.caption(scene, rng)
