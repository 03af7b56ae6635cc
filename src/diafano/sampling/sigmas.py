"""Schedules: the falling sigmas that samplers walk, chosen from the noise levels that a network was trained on.

A grid is steps + 1 Python floats, from the largest to the one where the run ends: 0, the clean latent, unless said
otherwise. Some grids spread the trained timesteps evenly, others a power, the logarithm or another function of
sigma between the smallest and the largest that were trained.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diafano.errors import UserError
from diafano.noise.process import Process
from diafano.noise.schedule import NoiseSchedule, Spacing

KARRAS_TOP_SIGMA = 80.0
"""EDM's largest sigma: above it a unit-variance latent is drowned and steps spent there are lost."""

ALIGNED_SIGMAS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Sabour et al. 2024, "Align Your Steps": what was found best for 10 steps of Stable Diffusion 1.5."""

CONSISTENCY_TIMESTEPS = 50
"""Latent consistency models (Luo et al. 2023) are distilled on so many of the trained timesteps."""

Grid = Callable[[Process, int], list[float]]
"""``grid(process, steps)`` -> steps + 1 falling sigmas."""

MOST_STEPS = 1000
"""Of a process without trained timesteps."""


# spread over the trained timesteps


def uniform_timesteps(schedule: NoiseSchedule, steps: int, spacing: Spacing | None = None) -> list[int]:
    """The falling trained timesteps that diffusers' DDIMScheduler picks for `spacing` (None: the schedule's own).

    Two departures, where diffusers' choice cannot work: one step starts at the last timestep (diffusers' "leading" and
    "linspace" would start pure noise at the almost clean end), and `steps_offset` never leads past the last timestep.
    """
    trained = len(schedule)
    _check_steps(steps, trained)
    spacing = schedule.config.spacing if spacing is None else spacing
    if steps == 1:
        return [trained - 1]
    if spacing == "leading":
        stride = trained // steps
        offset = min(schedule.config.steps_offset, trained - 1 - (steps - 1) * stride)
        return [step * stride + offset for step in reversed(range(steps))]
    if spacing == "trailing":
        return [round(trained - step * trained / steps) - 1 for step in range(steps)]
    return [round((trained - 1) * step / (steps - 1)) for step in reversed(range(steps))]  # linspace


def uniform_sigmas(process: Process, steps: int) -> list[float]:
    """Sigmas of `uniform_timesteps`, then 0, or the smallest trained sigma where ``final_sigma`` is "first".

    A1111's "Uniform" is `normal_sigmas`, whatever the model's own spacing. A process without trained timesteps gets
    equal steps of its time, the last of which leads to 0.
    """
    if not isinstance(process, NoiseSchedule):
        _check_steps(steps, MOST_STEPS)
        first, last = process.timestep_of(process.sigma_max), process.timestep_of(process.sigma_min)
        return [*(process.sigma_of(first + (last - first) * step / steps) for step in range(steps)), 0.0]
    schedule = process
    final = 0.0 if schedule.config.final_sigma == "zero" else schedule.sigma_of(0)
    return [*(schedule.sigma_of(timestep) for timestep in uniform_timesteps(schedule, steps)), final]


def ddim_uniform_sigmas(process: Process, steps: int) -> list[float]:
    """Every (trained / steps)-th timestep from 1 on, whatever the model's own spacing (A1111's DDIM, ComfyUI).

    Where the division leaves a remainder, these two run more steps than were asked for; here the first ones are left
    out, as in diffusers' "leading".
    """
    schedule = trained_on(process)
    trained = len(schedule)
    _check_steps(steps, trained)
    stride = trained // steps
    offset = min(1, trained - 1 - (steps - 1) * stride)
    timesteps = [trained - 1] if steps == 1 else [step * stride + offset for step in reversed(range(steps))]
    return [*(schedule.sigma_of(timestep) for timestep in timesteps), 0.0]


def simple_sigmas(process: Process, steps: int) -> list[float]:
    """Trained timesteps from the last one down, each (trained / steps) further, cut to whole ones (ComfyUI)."""
    schedule = trained_on(process)
    trained = len(schedule)
    _check_steps(steps, trained)
    return [*(schedule.sigma_of(trained - 1 - int(step * trained / steps)) for step in range(steps)), 0.0]


def normal_sigmas(process: Process, steps: int) -> list[float]:
    """Timesteps in equal steps from the last to the first, not cut to whole ones (k-diffusion's ``get_sigmas``)."""
    schedule = trained_on(process)
    last = len(schedule) - 1
    _check_steps(steps, len(schedule))
    return [*(schedule.sigma_of(last * (1.0 - part)) for part in _parts(steps)), 0.0]


def sgm_uniform_sigmas(process: Process, steps: int) -> list[float]:
    """As `normal_sigmas` with one step more, the last of which is left out (Stability's generative-models)."""
    schedule = trained_on(process)
    last = len(schedule) - 1
    _check_steps(steps, len(schedule))
    return [*(schedule.sigma_of(last * (1.0 - step / steps)) for step in range(steps)), 0.0]


def lcm_sigmas(process: Process, steps: int) -> list[float]:
    """diffusers' LCMScheduler: evenly chosen among the 50 timesteps (more, if asked for) of the distillation."""
    schedule = trained_on(process)
    trained = len(schedule)
    _check_steps(steps, trained)
    distilled = min(trained, max(CONSISTENCY_TIMESTEPS, steps))
    stride = trained // distilled
    timesteps = [stride * (distilled - int(step * distilled / steps)) - 1 for step in range(steps)]
    return [*(schedule.sigma_of(timestep) for timestep in timesteps), 0.0]


# spread over the trained sigmas


def karras_sigmas(process: Process, steps: int, rho: float = 7.0) -> list[float]:
    """EDM's equation 5 between the schedule's smallest and largest sigma (at most 80), then 0.

    The range is the whole trained one, as in k-diffusion; diffusers takes that of its uniform timesteps.
    """
    _check_rho(rho)
    first, last = (sigma ** (1.0 / rho) for sigma in _ends(process))
    return _spread(process, steps, lambda part: (first + part * (last - first)) ** rho)


def exponential_sigmas(process: Process, steps: int) -> list[float]:
    """Equal steps of log sigma over the range of `karras_sigmas`, then 0 (k-diffusion)."""
    return polyexponential_sigmas(process, steps, rho=1.0)


def polyexponential_sigmas(process: Process, steps: int, rho: float = 1.0) -> list[float]:
    """Log sigma falls as ``(1 - part)^rho``, then 0 (k-diffusion); at rho 1, the default, as `exponential_sigmas`."""
    _check_rho(rho)
    first, last = (math.log(sigma) for sigma in _ends(process))
    return _spread(process, steps, lambda part: math.exp(last + (1.0 - part) ** rho * (first - last)))


def kl_optimal_sigmas(process: Process, steps: int) -> list[float]:
    """Equal steps of arctan sigma, then 0 (Sabour et al. 2024, theorem 3.1, in ComfyUI's form).

    A1111's form ends at the smallest trained sigma, not at 0: its pictures keep a little noise.
    """
    first, last = (math.atan(sigma) for sigma in _ends(process))
    return _spread(process, steps, lambda part: math.tan(first + part * (last - first)))


def beta_sigmas(process: Process, steps: int, alpha: float = 0.6, beta: float = 0.6) -> list[float]:
    """Quantiles of a beta distribution stretched over the range of sigmas, then 0 (Lee et al. 2024; A1111, diffusers).

    ComfyUI stretches it over the timesteps.
    """
    if not (alpha > 0.0 and beta > 0.0):
        raise UserError(f"alpha {alpha} and beta {beta} make no beta distribution: use values above 0, such as 0.6")
    first, last = _ends(process)
    return _spread(process, steps, lambda part: last + beta_quantile(1.0 - part, alpha, beta) * (first - last))


def align_your_steps_sigmas(process: Process, steps: int) -> list[float]:
    """`ALIGNED_SIGMAS`, for other numbers of steps interpolated in log sigma, then 0 (A1111; the paper's how-to)."""
    _check_steps(steps, most_steps(process))
    logs = [math.log(sigma) for sigma in ALIGNED_SIGMAS]
    sigmas = [math.exp(_interpolated(logs, part)) for part in _parts(steps)]
    return [ALIGNED_SIGMAS[0], *sigmas[1:], 0.0]


@dataclass(frozen=True)
class Schedule:
    """A row of `SCHEDULES`."""

    name: str
    function: Grid
    """``function(schedule, steps)`` -> steps + 1 falling sigmas."""
    label: str
    """What A1111's menus and picture metadata call it."""
    aliases: tuple[str, ...] = ()
    """Other names that users type."""


AUTOMATIC = "automatic"
"""The name, not of a grid, but of the wish for the one that the sampler is usually run with."""

SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule
    for schedule in (
        Schedule("uniform", uniform_sigmas, "Uniform"),
        Schedule("karras", karras_sigmas, "Karras", ("ka", "use_karras_sigmas")),
        Schedule("exponential", exponential_sigmas, "Exponential", ("use_exponential_sigmas",)),
        Schedule("polyexponential", polyexponential_sigmas, "Polyexponential"),
        Schedule("sgm_uniform", sgm_uniform_sigmas, "SGM Uniform", ("sgmuniform",)),
        Schedule("simple", simple_sigmas, "Simple"),
        Schedule("normal", normal_sigmas, "Normal"),
        Schedule("ddim_uniform", ddim_uniform_sigmas, "DDIM uniform", ("ddim",)),
        Schedule("beta", beta_sigmas, "Beta", ("use_beta_sigmas",)),
        Schedule("kl_optimal", kl_optimal_sigmas, "KL Optimal"),
        Schedule("align_your_steps", align_your_steps_sigmas, "Align Your Steps", ("ays",)),
        Schedule("lcm", lcm_sigmas, "LCM"),
    )
}


def find_schedule(name: str) -> Schedule:
    """The schedule of that name, A1111 label or alias; case, and spaces for underscores, do not matter."""
    schedule = _BY_ANY_NAME.get(_plain(name))
    if schedule is None:
        raise UserError(f"unknown schedule {name!r}: use one of {', '.join([AUTOMATIC, *SCHEDULES])}")
    return schedule


def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """Where a beta distribution's cumulative share reaches `share` in [0, 1] (scipy's ``beta.ppf``)."""
    if share > _beta_share(0.5, alpha, beta):  # the series below converges fast in the lower half only
        return 1.0 - _lower_beta_quantile(1.0 - share, beta, alpha)
    return _lower_beta_quantile(share, alpha, beta)


def _lower_beta_quantile(share: float, alpha: float, beta: float) -> float:
    """Newton's method on x^alpha, of which the share is nearly a multiple: it converges from one side."""
    slope = _density_scale(alpha, beta) / alpha
    power = min(share / slope, 0.5**alpha)
    for _ in range(50):
        x = math.pow(power, 1.0 / alpha)
        change = (_beta_share(x, alpha, beta) - share) / (slope * math.pow(1.0 - x, beta - 1.0))
        power = min(max(power - change, 0.0), math.pow(0.5, alpha))
        if abs(change) <= 1e-15 * power:
            break
    return math.pow(power, 1.0 / alpha)


def _beta_share(x: float, alpha: float, beta: float) -> float:
    """The regularized incomplete beta function for x in [0, 0.5], by its power series."""
    total, factor, power = 0.0, 1.0, 0.0
    while True:
        term = factor / (alpha + power)
        total += term
        if abs(term) <= 1e-17 * abs(total):
            return _density_scale(alpha, beta) * math.pow(x, alpha) * total
        power += 1.0
        factor *= (power - beta) / power * x


def _density_scale(alpha: float, beta: float) -> float:
    """One over the beta function."""
    return math.exp(math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta))


def trained_on(process: Process) -> NoiseSchedule:
    """Raises UserError where there are no trained timesteps to choose from."""
    if not isinstance(process, NoiseSchedule):
        raise UserError("this model was not trained on single timesteps: use the schedule uniform, karras or beta")
    return process


def most_steps(process: Process) -> int:
    return len(process) if isinstance(process, NoiseSchedule) else MOST_STEPS


def _spread(process: Process, steps: int, sigma_at: Callable[[float], float]) -> list[float]:
    """``sigma_at`` parts from 0 to 1 of the way, whose ends are as they are: a root and its power would round them."""
    _check_steps(steps, most_steps(process))
    first, last = _ends(process)
    if steps == 1:
        return [first, 0.0]
    return [first, *(sigma_at(part) for part in _parts(steps)[1:-1]), last, 0.0]


def _ends(process: Process) -> tuple[float, float]:
    """Largest sigma worth a step, and smallest."""
    return min(process.sigma_max, KARRAS_TOP_SIGMA), process.sigma_min


def _parts(steps: int) -> list[float]:
    """`steps` numbers from 0 to 1 at equal distances; 0 alone for one step."""
    return [step / max(1, steps - 1) for step in range(steps)]


def _interpolated(values: Sequence[float], part: float) -> float:
    """The value `part` (0 to 1) of the way through, linear between neighbours."""
    place = part * (len(values) - 1)
    low = min(int(place), len(values) - 2)
    return values[low] + (place - low) * (values[low + 1] - values[low])


def _plain(name: str) -> str:
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


def _check_rho(rho: float) -> None:
    if not rho > 0.0:
        raise UserError(f"rho {rho} makes no falling grid: use a value above 0, such as 7")


def _check_steps(steps: int, trained: int) -> None:
    if not 1 <= steps <= trained:
        raise UserError(f"{steps} steps cannot be taken: use 1 to {trained}")


_BY_ANY_NAME: dict[str, Schedule] = {
    _plain(name): schedule
    for schedule in SCHEDULES.values()
    for name in (schedule.name, schedule.label, *schedule.aliases)
}
