"""Time laws: which t a training row sees. Each maps a uniform number u in
(0, 1) to t, so that t belongs to the row's seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core import InputError, Schedule, register


class TimeLaw(Protocol):
    """(u float64[B] in (0, 1), schedule) -> t float64[B] in (0, 1]."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Uniform:
    """t = low + (high - low) u. Default: all of (0, 1), the continuous form of DDPM's uniform step
    (arXiv 2006.11239, alg. 1).
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise InputError(f"Uniform needs 0 <= low < high <= 1, got low={self.low}, high={self.high}")

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        return self.low + (self.high - self.low) * u


@register
@dataclass(frozen=True, kw_only=True)
class Discrete:
    """t uniform on {1, ..., count} / count: the steps of a discrete chain
    (arXiv 2006.11239, alg. 1). Default T = 1000 as there.
    """

    count: int = 1000

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        return torch.ceil(u * self.count).clamp(min=1) / self.count


@register
@dataclass(frozen=True, kw_only=True)
class LogNormal:
    """ln s ~ N(mean, std^2) for s = sigma / alpha (Karras et al. 2022, arXiv 2206.00364, table 1, whose -1.2 and 1.2
    are the defaults).
    """

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times; noise levels beyond the schedule's own are set to its end."""
        return schedule.inverse(-(self.mean + self.std * torch.special.ndtri(u))).clamp(max=1.0)


@register
@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """logit t ~ N(mean, std^2) (Esser et al. 2024, arXiv 2403.03206, eq. 19; the defaults 0 and 1 rank best in its
    table 1).
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@register
@dataclass(frozen=True, kw_only=True)
class CosMap:
    """t = 1 - 1 / (tan(pi u / 2) + 1), density 2 / (pi - 2 pi t + 2 pi t^2)
    (Esser et al. 2024, arXiv 2403.03206, eq. 21).
    """

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)


@register
@dataclass(frozen=True, kw_only=True)
class Mode:
    """t = 1 - u - kappa (cos^2(pi u / 2) - 1 + u), density 1 / (1 + kappa (1 - pi/2 sin(pi u))) at t
    (Esser et al. 2024, arXiv 2403.03206, eq. 20).

    kappa > 0 favours the middle, < 0 the ends; 1.29, the default, is the paper's best. Raises `InputError` outside of
    [-1, 2 / (pi - 2)], where t is not monotone in u.
    """

    kappa: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.kappa <= 2 / (math.pi - 2):
            raise InputError(f"Mode.kappa={self.kappa} must lie in [-1, {2 / (math.pi - 2):.4g}]")

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        return 1 - u - self.kappa * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


@register
@dataclass(frozen=True, kw_only=True)
class Ladder:
    """One of `count` noise levels s = sigma / alpha, evenly in ln s from `high` to `low`, each as likely: NCSN's ladder
    (Song & Ermon 2019, arXiv 1907.05600, section 4.1, whose 10 levels from 1 to 0.01 are the defaults).

    Raises `InputError` for levels that do not fall, and at the first call for one beyond the schedule's own.
    """

    count: int = 10
    high: float = 1.0
    low: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and self.count >= 2):
            raise InputError(f"{self} needs at least 2 levels, and 0 < low < high")

    def levels(self) -> Tensor:
        """Return the levels, float64[count], falling."""
        return torch.linspace(math.log(self.high), math.log(self.low), self.count, dtype=torch.float64).exp()

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the times."""
        if self.high > math.exp(-schedule.lam(1.0)) * 1.001:
            raise InputError(f"Ladder.high={self.high} lies beyond the schedule: lower it, or raise sigma_max")
        index = (u * self.count).long().clamp(max=self.count - 1)
        return schedule.inverse(-self.levels().log()).clamp(max=1.0).to(u.device)[index]
