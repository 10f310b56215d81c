"""Classical methods that take the ODE as it stands: what exponential integrators are compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class Midpoint(ABC):
    """The classical midpoint rule on the whole ODE dx/dt = alpha' x0_hat + sigma' eps_hat, by any measure of time."""

    order = 2
    nfe = 2

    @property
    def stochastic(self) -> bool:
        """No noise is drawn."""
        return False

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""
        return None

    @abstractmethod
    def clock(self, schedule: Schedule, t: float) -> float:
        """Return the measure of time at t."""

    @abstractmethod
    def at(self, schedule: Schedule, u: float) -> float:
        """Return the t at which the measure of time is u."""

    @abstractmethod
    def rate(self, schedule: Schedule, t: float) -> float:
        """Return d clock / dt."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return x_s."""
        schedule = denoiser.schedule
        start, end = self.clock(schedule, k.t), self.clock(schedule, k.s)
        middle, h = self.at(schedule, 0.5 * (start + end)), end - start
        half = x + 0.5 * h * velocity(denoiser, x, k.t, cond) / self.rate(schedule, k.t)
        return x + h * velocity(denoiser, half, middle, cond) / self.rate(schedule, middle), None


@dataclass(frozen=True, kw_only=True)
class MidpointInTime(Midpoint):
    """By t itself."""

    def clock(self, schedule: Schedule, t: float) -> float:
        """Return t."""
        return t

    def at(self, schedule: Schedule, u: float) -> float:
        """Return u."""
        return u

    def rate(self, schedule: Schedule, t: float) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class MidpointInLambda(Midpoint):
    """By lambda = ln(alpha / sigma)."""

    def clock(self, schedule: Schedule, t: float) -> float:
        """Return lambda."""
        return float(schedule.lam(t))

    def at(self, schedule: Schedule, u: float) -> float:
        """Return t(lambda)."""
        return float(schedule.inverse(u))

    def rate(self, schedule: Schedule, t: float) -> float:
        """Return d lambda / dt."""
        (alpha, sigma), (d_alpha, d_sigma) = schedule(t), _derivatives(schedule, t)
        return d_alpha / alpha - d_sigma / sigma


def velocity(denoiser: Denoiser, x: Tensor, t: float, cond: Mapping[str, Any]) -> Tensor:
    """Return dx/dt = alpha' x0_hat + sigma' eps_hat."""
    (alpha, sigma), (d_alpha, d_sigma) = denoiser.schedule(t), _derivatives(denoiser.schedule, t)
    x0 = denoiser(x, t, **cond)
    return d_alpha * x0 + d_sigma * (x - alpha * x0) / sigma


def _derivatives(schedule: Schedule, t: float) -> tuple[float, float]:
    with torch.enable_grad():
        d_alpha, d_sigma = schedule.derivatives(torch.tensor(t, dtype=torch.float64))
    return float(d_alpha), float(d_sigma)
