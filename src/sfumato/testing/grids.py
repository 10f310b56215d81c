"""Grids for checks: finite in lambda at both ends, with steps whose ratio does not tend to 1."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import Schedule, Solver, grids

_LONG = (1.0, 0.02, 0.0)
_PATTERN = (1.0, 1.6, 0.7, 1.3)


def uneven(schedule: Schedule, n: int, *, low: float = -3.5, high: float = 3.5) -> Tensor:
    """Return n steps, a multiple of 4, from lambda = `low` (or the schedule's own end) to `high`.

    Steps of lambda repeat the ratios 1 : 1.6 : 0.7 : 1.3 at every n, so a solver's errors fall cleanly with n while a
    multistep formula that is right for even steps alone loses its order.
    """
    start = max(low, schedule.lam(1.0))
    parts = torch.tensor(_PATTERN, dtype=torch.float64).repeat(n // len(_PATTERN))
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), parts.cumsum(0)])
    times = schedule.inverse(start + (high - start) * edges / edges[-1])
    return times.clamp(0.0, 1.0)


def uniform(solver: Solver, schedule: Schedule, n: int) -> Tensor:
    """Return n equal steps of t, or for a solver that takes its own steps one that is long enough for many."""
    return torch.tensor(_LONG, dtype=torch.float64) if hasattr(solver, "rtol") else grids.uniform(schedule, n)
