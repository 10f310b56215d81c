"""Restart (Xu et al. 2023, arXiv 2306.14878, algorithm 1): jump back to more noise, and down again, several times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule, Solver, Step, evaluations, fit, register, steps, update
from .heun import Heun

_RHO = 7.0  # of the levels of a restart, as in the paper and its base (arXiv 2206.00364, eq. 5)


@register
@dataclass(frozen=True, kw_only=True)
class Restart:
    """At the first level s_j <= `low` of the grid, `times` times: y <- y + sqrt(high^2 - s_j^2) z, and back to s_j.

    The way back is `solver` on `steps` steps, equal in s^(1/7), s = sigma / alpha; it starts anew after each jump.
    Noise renews what has gone wrong, the many small steps add little error of their own. Several intervals nest:
    `Restart(solver=Restart(...), ...)`. A run whose last level above the data lies over `low` has no restart.
    Defaults: Heun, and the paper's first setting for CIFAR-10: 2 jumps from 0.06 to 0.3, in 3 steps.

    Raises `InputError` for settings that are not possible, and for a schedule whose noise does not reach `high`.
    """

    solver: Solver = field(default_factory=Heun)
    low: float = 0.06
    high: float = 0.3
    times: int = 2
    steps: int = 3

    def __post_init__(self) -> None:
        if not (0.0 < self.low < self.high and self.times >= 1 and self.steps >= 1):
            raise InputError(f"{self} is not possible: it needs 0 < low < high, and at least 1 time and 1 step")

    @property
    def order(self) -> int:
        """The order of `solver`."""
        return self.solver.order

    @property
    def nfe(self) -> None:
        """Nothing: the restarts belong to one step."""

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: always."""
        return True

    def fits(self, schedule: Schedule) -> None:
        """Raise `InputError` for a schedule whose noise does not reach `high`."""
        fit(self.solver, schedule)
        alpha, sigma = schedule(1.0)
        if sigma <= self.high * alpha:
            raise InputError(
                f"Restart.high={self.high} is beyond sigma / alpha = {sigma / alpha:.4g}, the most that "
                f"{type(schedule).__name__} has; give a lower one"
            )

    def evaluations(self, grid: Tensor, schedule: Schedule | None) -> int | None:
        """Return the evaluations of a run over a grid that ends above the data."""
        if schedule is None:
            raise InputError("where Restart restarts is a matter of noise levels: give evaluations the schedule too")
        if len(grid) < 2:
            return 0
        at = next((k.i + 1 for k in steps(schedule, grid) if self._at(k)), None)
        if at is None:
            return evaluations(self.solver, grid, schedule)
        end = float(grid[at])
        back = torch.tensor([*(k.t for k in self._back(schedule, end)), end], dtype=torch.float64)
        parts = (grid[: at + 1], *[back] * self.times, grid[at:])
        counts = [evaluations(self.solver, part, schedule) for part in parts]
        known = [c for c in counts if c is not None]
        return sum(known) if len(known) == len(counts) else None

    def init(self, x: Tensor) -> Any:
        """Return the state of `solver`."""
        return self.solver.init(x)

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Any, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return x_s and the state of `solver`, after the restarts if they belong to this step."""
        x, state = self.solver.step(denoiser, x, k, state, noise, cond)
        if not self._at(k):
            return x, state
        back = self._back(denoiser.schedule, k.s)
        r = back[0].alpha_t / k.alpha_s
        added = (back[0].sigma_t ** 2 - (r * k.sigma_s) ** 2) ** 0.5
        for j in range(self.times):
            x = update(x, r, noise.like(x, "restart", f"{k.s:.17g}", j), added)
            state = self.solver.init(x)
            for small in back:
                x, state = self.solver.step(denoiser, x, small, state, noise, cond)
        return x, self.solver.init(x)

    def _at(self, k: Step) -> bool:
        """Return whether this step is the one that comes to `low`."""
        return k.sigma_s <= self.low * k.alpha_s and k.sigma_t > self.low * k.alpha_t

    def _back(self, schedule: Schedule, end: float) -> tuple[Step, ...]:
        """Return the steps from the level `high` to the time `end`."""
        alpha, sigma = schedule(end)
        ends = (self.high ** (1 / _RHO), (sigma / alpha) ** (1 / _RHO))
        roots = torch.linspace(*ends, self.steps + 1, dtype=torch.float64)
        times = schedule.inverse(-_RHO * roots.log())
        times[-1] = end
        return steps(schedule, times)
