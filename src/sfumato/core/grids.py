"""Grids: (schedule, n) -> float64[n + 1], falling times from noise to data. The last is 0 unless `end` says otherwise.

Noise levels are written s = sigma / alpha, as in EDM; a schedule whose alpha ends at 0 has s = infinity at t = 1, so
grids that are built in s begin at `sigma_max` there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import InputError
from .schedules import Schedule

# Align Your Steps (arXiv 2404.14507, table 3): the published noise levels of 10 steps, the ends of the first and last
# included; a sampler replaces the end of the last by 0.
AYS_SD15 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
AYS_IF = (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006)
AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def uniform(schedule: Schedule, n: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Return n equal steps of t from `start` to `end`."""
    return _checked(torch.linspace(start, end, _count(n) + 1, dtype=torch.float64))


def quadratic(schedule: Schedule, n: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Return steps that are equal in sqrt(t): finer near the data
    (DDIM's choice for CIFAR-10, arXiv 2010.02502, app. D.2).
    """
    return _checked(torch.linspace(math.sqrt(start), math.sqrt(end), _count(n) + 1, dtype=torch.float64) ** 2)


def karras(
    schedule: Schedule, n: int, *, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Tensor:
    """Return n noise levels with equal steps of s^(1/rho), then 0 (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Defaults: the paper's rho = 7 and s from 80 to 0.002; `sigma_max` is lowered to the schedule's own where that is
    less.
    """
    high, low = _levels(schedule, sigma_min, sigma_max)
    roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), _count(n), dtype=torch.float64)
    return _from_levels(schedule, roots**rho)


def log_snr(schedule: Schedule, n: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """Return n noise levels with equal steps of lambda = -ln s, then 0
    (Lu et al. 2022, arXiv 2206.00927, section 3.2).
    """
    high, low = _levels(schedule, sigma_min, sigma_max)
    return _from_levels(schedule, torch.linspace(math.log(high), math.log(low), _count(n), dtype=torch.float64).exp())


def logistic(
    schedule: Schedule,
    n: int,
    *,
    centre: float = 1.75,
    floor: float = 1.2,
    sigma_min: float | None = None,
    sigma_max: float = 80.0,
) -> Tensor:
    """Return n noise levels with a density in lambda = -ln s that is a constant plus a logistic distribution's, then 0.

    The constant is `floor` levels a unit of lambda, or two thirds of all where that is less; the others have equal
    steps of 1 / (1 + s / centre), so they gather where s is about `centre`, where samples of data of variance 1 choose
    what they become. `sigma_min` falls with n, 0.5 / n^(3/2), to the 0.002 of `karras`: the error of the last step goes
    as its square, that of a solver of third order as 1 / n^3.

    The defaults were fitted here, to `DEIS` on exact mixtures (`sfumato bench evaluations`).
    """
    n = _count(n)
    high, low = _levels(schedule, max(0.002, 0.5 / n**1.5) if sigma_min is None else sigma_min, sigma_max)
    if not (centre > 0 and floor >= 0):
        raise InputError(f"a logistic grid needs centre > 0 and floor >= 0, got {centre} and {floor}")
    fine = torch.linspace(-math.log(high), -math.log(low), 4097, dtype=torch.float64)
    even, bump = (fine - fine[0]) / (fine[-1] - fine[0]), torch.sigmoid(fine + math.log(centre))
    share = min(floor * math.log(high / low) / max(n - 1, 1), 2 / 3)
    whole = share * even + (1 - share) * (bump - bump[0]) / (bump[-1] - bump[0])
    place = torch.linspace(0, 1, n, dtype=torch.float64)
    right = torch.searchsorted(whole, place).clamp(1, len(fine) - 1)
    part = (place - whole[right - 1]) / (whole[right] - whole[right - 1])
    return _from_levels(schedule, torch.lerp(fine[right - 1], fine[right], part).neg().exp())


def leading(schedule: Schedule, n: int, *, T: int = 1000, offset: int = 1) -> Tensor:
    """Return the discrete indices i * floor(T / n) + offset, falling, then 0; index j stands at t = (j + 1) / T.

    The spacing of Stable Diffusion 1 and 2 with offset 1; it never visits the last index (arXiv 2305.08891, table 2).
    """
    index = torch.arange(_count(n, T) - 1, -1, -1, dtype=torch.float64) * (T // n) + offset
    return _from_index(index, T)


def leading_zero(schedule: Schedule, n: int) -> Tensor:
    """Return `leading` without an offset: the discrete indices i * floor(1000 / n), the choice of DDIM's code."""
    return leading(schedule, n, offset=0)


def karras_table(schedule: Schedule, n: int, *, T: int = 1000) -> Tensor:
    """Return `karras` between the first and the last noise level of a discrete table of `T` entries."""
    return karras(schedule, n, sigma_min=math.exp(-schedule.lam(1 / T)), sigma_max=math.inf)


def flow(schedule: Schedule, n: int, *, T: int = 1000) -> Tensor:
    """Return n even times from 1 to sigma(1 / T), then 0: the grid that SD3 was published with (arXiv 2403.03206).

    The end is a noise level that the schedule has shifted already, and the schedule shifts it again.
    """
    times = torch.linspace(1.0, schedule(1 / T)[1], _count(n), dtype=torch.float64)
    return _checked(torch.cat([times, times.new_zeros(1)]))


def linspace(schedule: Schedule, n: int, *, T: int = 1000) -> Tensor:
    """Return n rounded indices evenly from T - 1 to 0, then t = 0
    (Nichol & Dhariwal 2021, arXiv 2102.09672, section 4).
    """
    return _from_index(torch.linspace(T - 1, 0, _count(n, T), dtype=torch.float64).round(), T)


def linspace_open(schedule: Schedule, n: int, *, T: int = 1000) -> Tensor:
    """Return the first n of n + 1 rounded indices evenly from T - 1 to 0, then t = 0: the last index is the step to it.

    The spacing of DPM-Solver's code, where `linspace` is that of samplers that visit the last index too.
    """
    return _from_index(torch.linspace(T - 1, 0, _count(n, T - 1) + 1, dtype=torch.float64).round()[:-1], T)


def leading_open(schedule: Schedule, n: int, *, T: int = 1000, offset: int = 1) -> Tensor:
    """Return the indices i * floor(T / (n + 1)) + offset for i = n ... 1, then t = 0: as DPM-Solver's code does."""
    index = torch.arange(_count(n, T - 1), 0, -1, dtype=torch.float64) * (T // (n + 1)) + offset
    return _from_index(index, T)


def trailing(schedule: Schedule, n: int, *, T: int = 1000) -> Tensor:
    """Return the discrete indices round(T - i T / n) - 1, then t = 0: it visits the last index
    (arXiv 2305.08891, table 2).
    """
    index = torch.tensor([round(T - i * T / n) - 1 for i in range(_count(n, T))], dtype=torch.float64)
    return _from_index(index, T)


def lcm(schedule: Schedule, n: int, *, T: int = 1000, original: int = 50) -> Tensor:
    """Return n of the `original` indices i * floor(T / original) - 1 that a consistency model was distilled on, evenly
    from the last one down, then t = 0 (arXiv 2310.04378, section 4.3; the 50 are its released models').
    """
    place = torch.linspace(0, original, _count(n, original) + 1, dtype=torch.float64)[:-1].floor()
    return _from_index((original - place) * (T // original) - 1, T)


def tabulated(schedule: Schedule, n: int, *, levels: Sequence[float] = AYS_SD15) -> Tensor:
    """Return n steps through `levels` (an optimised grid), interpolated log-linearly, the end of the last step put at 0
    (arXiv 2404.14507, section 3.3).

    `AYS_SD15`, `AYS_SDXL`, `AYS_IF` (DeepFloyd-IF) and `AYS_SVD` are the published tables of 10 steps; they assume the
    schedules of those models.
    """
    known = torch.tensor(list(levels), dtype=torch.float64).log()
    place = torch.linspace(0, len(known) - 1, _count(n) + 1, dtype=torch.float64)[:-1]
    low = place.floor().clamp(max=len(known) - 2).long()
    high = schedule.lam(1.0)
    return _from_levels(schedule, torch.lerp(known[low], known[low + 1], place - low).clamp(max=-high).exp())


def _count(n: int, most: int | None = None) -> int:
    if n < 1 or (most is not None and n > most):
        raise InputError(f"a grid of {n} steps is not possible: give {'at least 1' if n < 1 else f'at most {most}'}")
    return n


def _levels(schedule: Schedule, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    high = min(sigma_max, math.exp(min(-schedule.lam(1.0), 700.0)))
    if not 0 < sigma_min < high:
        raise InputError(f"sigma_min={sigma_min} must lie between 0 and sigma_max={high:.4g}")
    return high, sigma_min


def _from_levels(schedule: Schedule, levels: Tensor) -> Tensor:
    times = schedule.inverse(-levels.log()).clamp(max=1.0)
    return _checked(torch.cat([times, times.new_zeros(1)]))


def _from_index(index: Tensor, T: int) -> Tensor:
    times = ((index + 1) / T).clamp(max=1.0)
    return _checked(torch.cat([times, times.new_zeros(1)]))


def _checked(times: Tensor) -> Tensor:
    if not bool((times[:-1] > times[1:]).all()) or times[0] > 1 or times[-1] < 0:
        raise InputError(f"a grid must fall strictly inside [0, 1], got {[round(t, 6) for t in times.tolist()]}")
    return times
