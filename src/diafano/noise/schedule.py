"""Additive noise: how much of it each trained timestep holds, and how it is put on (`sampling`: how it comes off).

Two currencies for the same noisy latent (clean latents have unit variance):

- variance preserving (DDPM, Ho et al. 2020), what the network sees:  ``sqrt(a) * clean + sqrt(1 - a) * noise``,
  with ``a`` the cumulative product of the alphas at a timestep (``alphas_cumprod``);
- variance exploding (EDM, Karras et al. 2022), what samplers see:    ``clean + sigma * noise``.

They differ by one factor: ``sigma = sqrt((1 - a) / a)`` and ``exploding = sqrt(1 + sigma^2) * preserving``.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from diafano.errors import UserError

NoiseSource = Callable[[], Tensor]
"""Gives unit-normal noise of the latent's shape at each call."""

Spacing = Literal["leading", "trailing", "linspace"]
"""diffusers' ``timestep_spacing``."""

TERMINAL_ALPHA = 2.0**-24
"""Last alpha of a schedule with zero terminal SNR, as in diffusers' Euler: sigma is 4096 instead of infinite."""

COSINE_BETA_CAP = 0.999
"""Nichol and Dhariwal 2021 cap the cosine schedule's betas, the last of which would be 1."""


class ScheduleConfig(BaseModel):
    """What a network was trained with, and how its timesteps are spread over fewer steps.

    `steps_offset` is diffusers': it is added to the timesteps of the "leading" spacing.
    `spacing_said` is false where a model's files leave the spacing out, as those of Stable Diffusion 1 and 2 do: each
    of diffusers' schedulers then has its own, and `spacing` is that of the one which the files name.
    `final_sigma` is where the uniform grid ends: "zero" (clean), or "first", the smallest trained sigma, which is
    diffusers' ``set_alpha_to_one=False`` of Stable Diffusion v1. The end of such a run still has the factor
    ``sqrt(1 + sigma^2)`` on it, see `NoiseSchedule.finish`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=1000, ge=2)
    kind: Literal["scaled_linear", "linear", "cosine"] = "scaled_linear"
    beta_start: float = Field(default=0.00085, gt=0.0, lt=1.0)
    beta_end: float = Field(default=0.012, gt=0.0, lt=1.0)
    prediction: Literal["noise", "v", "clean"] = "noise"
    spacing: Spacing = "leading"
    spacing_said: bool = True
    steps_offset: int = Field(default=1, ge=0)
    zero_terminal_snr: bool = False
    final_sigma: Literal["zero", "first"] = "zero"

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} is above beta_end {self.beta_end}: swap them")
        if self.zero_terminal_snr and self.prediction == "noise":
            # Lin et al. 2023, section 3.2: at zero SNR the noise is the input itself, so predicting it teaches nothing.
            raise ValueError('zero_terminal_snr needs prediction "v" or "clean", not "noise"')
        return self


class NoiseSchedule:
    """The noise levels of the trained timesteps 0 (nearly clean) to steps - 1 (nearly all noise).

    `alphas_cumprod` and `sigmas` are float64 tensors (steps,) on the CPU, falling and rising respectively.
    """

    def __init__(self, config: ScheduleConfig | None = None) -> None:
        self.config = ScheduleConfig() if config is None else config
        alphas_cumprod = torch.cumprod(1.0 - _betas(self.config), dim=0)
        if self.config.zero_terminal_snr:
            alphas_cumprod = _with_zero_terminal_snr(alphas_cumprod)
        self.alphas_cumprod = alphas_cumprod
        self.sigmas = torch.sqrt((1.0 - alphas_cumprod) / alphas_cumprod)
        self._sigmas: list[float] = self.sigmas.tolist()
        self._log_sigmas = [math.log(sigma) for sigma in self._sigmas]
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        return self.config.steps

    # sigma <-> timestep ---------------------------------------------------------------------------------------------

    def sigma_of(self, timestep: float) -> float:
        """Sigma of a timestep in [0, steps - 1]; between two trained ones log sigma is linear, as in k-diffusion."""
        if not 0 <= timestep <= len(self) - 1:
            raise UserError(f"timestep {timestep} is outside the trained range: use 0 to {len(self) - 1}")
        low = min(int(timestep), len(self) - 2)
        part = timestep - low
        if part == 0.0 or part == 1.0:  # a trained timestep has exactly its own sigma: no rounding of exp(log)
            return self._sigmas[low + int(part)]
        return math.exp((1.0 - part) * self._log_sigmas[low] + part * self._log_sigmas[low + 1])

    def timestep_of(self, sigma: float) -> float:
        """Inverse of `sigma_of`, exact at trained timesteps; a sigma beyond the trained range gets its nearest end."""
        if not sigma >= 0.0:
            raise UserError(f"sigma {sigma} is not a noise level: it must be 0 or more")
        if sigma <= self._sigmas[0]:
            return 0.0
        if sigma >= self._sigmas[-1]:
            return float(len(self) - 1)
        log_sigma = math.log(sigma)
        low = min(bisect.bisect_right(self._log_sigmas, log_sigma) - 1, len(self) - 2)
        below, above = self._log_sigmas[low], self._log_sigmas[low + 1]
        return low + (log_sigma - below) / (above - below)

    # noise on clean latents -----------------------------------------------------------------------------------------

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """``sqrt(a) * clean + sqrt(1 - a) * noise`` at each picture's timestep (DDPM's equation 4).

        `clean` and `noise` have the shape (batch, ...), `timestep` is (batch,) int64; the result has clean's dtype.
        """
        signal, spread = self._signal_and_spread(timestep, clean)
        return (signal * clean + spread * noise).to(clean.dtype)

    def add_noise_in_steps(
        self, clean: Tensor, timesteps: Sequence[int], noise_source: NoiseSource
    ) -> Iterator[Tensor]:
        """The Markov chain q(x_t | x_s) (DDPM's equation 2, over as many betas as lie between s and t).

        Yields the variance-preserving noisy latent at each of the rising `timesteps`, every one made from the one
        before it by a little fresh noise. Each has the distribution that `add_noise` reaches at once.
        """
        if any(after <= before for before, after in itertools.pairwise(timesteps)):
            raise UserError(f"timesteps {list(timesteps)} do not rise: noise is only ever added")
        for timestep in timesteps:
            if not 0 <= timestep < len(self):
                raise UserError(f"timestep {timestep} is outside the trained range: use 0 to {len(self) - 1}")
        return self._small_steps(clean, timesteps, noise_source)

    def _small_steps(self, clean: Tensor, timesteps: Sequence[int], noise_source: NoiseSource) -> Iterator[Tensor]:
        noisy, kept_before = clean, 1.0
        for timestep in timesteps:
            kept = float(self.alphas_cumprod[timestep])
            ratio = kept / kept_before  # product of (1 - beta) between the two timesteps
            noisy = math.sqrt(ratio) * noisy + math.sqrt(1.0 - ratio) * noise_source()
            kept_before = kept
            yield noisy

    # training -------------------------------------------------------------------------------------------------------

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network is to predict from ``add_noise(clean, noise, timestep)``: the noise, v, or the clean latent.

        ``v = sqrt(a) * noise - sqrt(1 - a) * clean`` (Salimans and Ho 2022, appendix D).
        """
        if self.config.prediction == "noise":
            return noise
        if self.config.prediction == "clean":
            return clean
        signal, spread = self._signal_and_spread(timestep, clean)
        return (signal * noise - spread * clean).to(clean.dtype)

    def signal_to_noise(self, timestep: Tensor) -> Tensor:
        """``a / (1 - a) = 1 / sigma^2`` at each timestep (batch,), float32, as min-SNR weighting wants it."""
        return self._table(timestep.device, torch.float32)[2][timestep]

    # the border between the two currencies: `noise.process` ---------------------------------------------------------

    @property
    def sigma_min(self) -> float:
        return self._sigmas[0]

    @property
    def sigma_max(self) -> float:
        return self._sigmas[-1]

    def input_scale(self, sigma: float) -> float:
        """EDM's ``c_in``: x has variance ``1 + sigma^2``, the network was trained on variance 1."""
        return 1.0 / math.sqrt(1.0 + sigma**2)

    def clean(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        """The clean estimate that the network's `prediction` for `x` means."""
        if self.config.prediction == "noise":
            return x - sigma * prediction
        if self.config.prediction == "v":  # Salimans and Ho 2022: clean = sqrt(a) * preserving - sqrt(1 - a) * v
            scale = self.input_scale(sigma)  # sqrt(a)
            return scale**2 * x - (sigma * scale) * prediction
        return prediction

    def prediction(self, x: Tensor, sigma: float, clean: Tensor) -> Tensor:
        """The prediction for `x` that means this clean estimate; `clean` the other way round, for sigmas above 0."""
        if self.config.prediction == "noise":
            return (x - clean) / sigma
        if self.config.prediction == "v":
            scale = self.input_scale(sigma)
            return (scale**2 * x - clean) / (sigma * scale)
        return clean

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """Where a run from pure noise starts, in the samplers' currency: the network sees exactly `noise` first.

        diffusers' DDIM does the same; k-diffusion starts from ``sigma * noise`` (0.2% less at v1's largest sigma).
        """
        return noise * math.sqrt(1.0 + sigma**2)

    def finish(self, x: Tensor, sigma: float) -> Tensor:
        """The latent to decode after a run that ended at `sigma`: x itself at 0, variance preserving above it."""
        return x / math.sqrt(1.0 + sigma**2)

    def _signal_and_spread(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(a)`` and ``sqrt(1 - a)`` at `timestep`, shaped (batch, 1, ...) to multiply `like`."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32  # never half: 1 - a would be lost
        shape = (-1,) + (1,) * (like.dim() - 1)
        table = self._table(like.device, dtype)
        index = timestep.to(like.device)
        return table[0][index].reshape(shape), table[1][index].reshape(shape)

    def _table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Rows ``sqrt(a)``, ``sqrt(1 - a)``, ``a / (1 - a)`` (3, steps), copied to a device once, not at each step."""
        table = self._tables.get((device, dtype))
        if table is None:
            kept = self.alphas_cumprod
            rows = torch.stack([kept.sqrt(), (1.0 - kept).sqrt(), kept / (1.0 - kept)])
            table = rows.to(dtype).to(device)  # dtype first: some devices have no float64
            self._tables[device, dtype] = table
        return table


def _betas(config: ScheduleConfig) -> Tensor:
    """Variance of the noise that each timestep adds, (steps,) float64."""
    if config.kind == "linear":
        return torch.linspace(config.beta_start, config.beta_end, config.steps, dtype=torch.float64)
    if config.kind == "scaled_linear":  # linear in the square root: latent diffusion's choice
        start, end = math.sqrt(config.beta_start), math.sqrt(config.beta_end)
        return torch.linspace(start, end, config.steps, dtype=torch.float64) ** 2
    time = torch.linspace(0.0, 1.0, config.steps + 1, dtype=torch.float64)
    kept = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2  # Nichol and Dhariwal 2021, equation 17
    return torch.clamp(1.0 - kept[1:] / kept[:-1], max=COSINE_BETA_CAP)


def _with_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Lin et al. 2023, algorithm 1: shift the last sqrt(alpha) to zero, scale so that the first one stays."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    rescaled = ((root - last) * first / (first - last)) ** 2
    rescaled[-1] = TERMINAL_ALPHA
    return rescaled
