"""Training losses. Every one returns a scalar mean."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_error(made: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours along height and width: (b, c, h, w) twice."""
    error = made - true
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def texture_error(made: Tensor, true: Tensor, window: int = 4) -> Tensor:
    """Mean absolute error of how much goes on in each window of so many pixels: (b, c, h, w) twice.

    That is the mean absolute difference between neighbours there. An average over what is possible, which the errors of
    single pixels and of their differences lead to where detail is uncertain, has less of it than any one of them.
    """
    made_slopes, true_slopes = (
        F.avg_pool2d(one.diff(dim=-1).abs()[..., :-1, :] + one.diff(dim=-2).abs()[..., :, :-1], window)
        for one in (made, true)
    )
    return (made_slopes - true_slopes).abs().mean()


def edge_ratio(made: Tensor, true: Tensor) -> float:
    """Mean absolute difference between neighbours in `made` over that in `true` (b, c, h, w): below 1, soft edges."""
    slopes = [one.diff(dim=-1).abs().mean() + one.diff(dim=-2).abs().mean() for one in (made, true)]
    return (slopes[0] / slopes[1].clamp(min=1e-9)).item()


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(logvar)) from N(0, 1), a value's mean (Kingma & Welling 2013, B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


def contrastive(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (Radford et al. 2021, figure 3): the i-th picture belongs to the i-th text and to no other.

    `pictures`, `texts`: (batch, width), of any length; `scale` is a factor on their cosines.
    """
    cosines = F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T
    own = torch.arange(len(cosines), device=cosines.device)
    return 0.5 * (F.cross_entropy(scale * cosines, own) + F.cross_entropy(scale * cosines.T, own))


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """Weight of each picture's squared error, so that no noise level dominates (Hang et al. 2023, section 3.4).

    `snr` is (batch,). An error of the clean estimate counts min(snr, gamma); in terms of noise that is divided by
    snr, in terms of v by snr + 1. With gamma 0 every prediction's error counts as it is.
    """
    if gamma == 0:
        return torch.ones_like(snr)
    clipped = snr.clamp(max=gamma)
    return {"noise": clipped / snr, "v": clipped / (snr + 1.0), "clean": clipped}[prediction]


def hinge_discriminator(true_scores: Tensor, made_scores: Tensor) -> Tensor:
    """The discriminator's hinge loss: true above 1, made below -1 (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1.0 - true_scores).mean() + F.relu(1.0 + made_scores).mean())
