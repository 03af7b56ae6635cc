"""The Fréchet distance: how far drawn pictures are from true ones, taken as two clouds of features.

It sees what the score does not: pictures that are all right and all alike, smeared, or odd in colour. The features are
the judge's, so the figure compares models and settings with each other; it is no FID of Inception's features.
"""

import numpy as np
import torch
from torch import Tensor

from diafano.evaluation.accuracy import true_pixels
from diafano.evaluation.judge import Judge
from diafano.training.data.emoji.scenes import Scene
from diafano.training.data.emoji.sprites import Sprites

TRUE_PICTURES = 4
"""True pictures a prompt, so that the cloud to be compared with is steady."""
SEED = 4_711
"""Of their places and sizes."""


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Between two sets of features (n, d) and (m, d), each taken as a normal distribution; 0 for the same one.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982; Heusel et al. 2017, arXiv
    1706.08500, eq. 6).
    Each set has at least two rows.
    """
    one, other = one.double(), other.double()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    first, second = (torch.atleast_2d(features.T.cov()) for features in (one, other))
    root = _square_root(first)
    # C1 C2 has the eigenvalues of the symmetric root C2 root, which are real and not negative.
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((apart + first.trace() + second.trace() - 2 * shared).clamp(min=0))


def distance_from_true(judge: Judge, pixels: Tensor, scenes: list[Scene], sprites: Sprites) -> float | None:
    """Of drawn pixels (b, 3, 64, 64) from true pictures of the scenes that were asked for; None for a single one."""
    if len(pixels) < 2:
        return None
    rng = np.random.default_rng(SEED)
    true = true_pixels(scenes * TRUE_PICTURES, sprites, rng)
    return frechet_distance(judge.features(pixels), judge.features(true))


def _square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root
