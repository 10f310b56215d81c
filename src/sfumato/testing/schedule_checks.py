"""Laws that every schedule keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from ..core import VP, Schedule
from .report import Case, title_of

# irrational steps, so that no point falls on a node of a discrete table
_TIMES = (torch.arange(1, 400, dtype=torch.float64) / 400 + 1e-4 * math.pi).clamp(max=0.9995)


def schedule_laws(name: str, schedule: Schedule) -> Iterator[Case]:
    """Yield the checks of one schedule."""
    for check in (_start, _end, _falling, _inverse, _paths, _shapes, _derivatives, _variance):
        if check is not _variance or isinstance(schedule, VP):
            title = title_of(check)
            yield Case(f"schedule: {title}", name, lambda c=check: c(schedule))


def _start(schedule: Schedule) -> tuple[object, str, bool]:
    """Alpha = 1 and sigma = 0 at t = 0."""
    ends = [*schedule(0.0), *(float(v) for v in schedule(torch.zeros(1, dtype=torch.float64)))]
    worst = max(abs(ends[0] - 1), abs(ends[1]), abs(ends[2] - 1), abs(ends[3]))
    return worst, "0", worst == 0 and schedule.lam(0.0) == math.inf


def _end(schedule: Schedule) -> tuple[object, str, bool]:
    """Sigma / alpha at t = 1."""
    alpha, sigma = schedule(1.0)
    ratio = sigma / alpha if alpha > 0 else math.inf
    return ratio, ">= 10", math.isfinite(alpha) and math.isfinite(sigma) and alpha >= 0 and sigma > 0 and ratio >= 10


def _falling(schedule: Schedule) -> tuple[object, str, bool]:
    """Lambda falls strictly."""
    lam = schedule.lam(torch.linspace(1e-6, 1, 4001, dtype=torch.float64))
    least = float((lam[:-1] - lam[1:]).min())
    return least, "> 0", least > 0


def _inverse(schedule: Schedule) -> tuple[object, str, bool]:
    """inverse(lam(t)) = t."""
    back = schedule.inverse(schedule.lam(_TIMES))
    by_float = torch.tensor([schedule.inverse(schedule.lam(t)) for t in _TIMES.tolist()], dtype=torch.float64)
    worst = max(float((v - _TIMES).abs().max()) for v in (back, by_float))
    return worst, "<= 1e-9", worst <= 1e-9


def _paths(schedule: Schedule) -> tuple[object, str, bool]:
    """Floats and tensors agree."""
    times = torch.cat([_TIMES, torch.tensor([0.0, 1e-6, 1.0], dtype=torch.float64)])
    tensors = torch.stack(schedule(times))
    floats = torch.tensor([schedule(t) for t in times.tolist()], dtype=torch.float64).T
    worst = float(((tensors - floats).abs() / (1e-3 + floats.abs())).max())
    return worst, "<= 1e-11", worst <= 1e-11


def _shapes(schedule: Schedule) -> tuple[object, str, bool]:
    """Any shape of t is kept, in float64."""
    shapes = ((), (1,), (3, 2), (4, 1, 1, 1))
    made: list[Any] = [v for s in shapes for v in schedule(torch.full(s, 0.3, dtype=torch.float64))]
    made += [schedule.inverse(torch.full(s, 0.3, dtype=torch.float64)) for s in shapes]
    expected = [s for s in shapes for _ in range(2)] + list(shapes)
    right = all(tuple(v.shape) == s and v.dtype == torch.float64 for v, s in zip(made, expected))
    return [tuple(v.shape) for v in made][:4], "as given", right


def _derivatives(schedule: Schedule) -> tuple[object, str, bool]:
    """Derivatives match finite differences."""
    h, times = 1e-5, _TIMES[4:-4]
    worst = 0.0
    values = [schedule(times + i * h) for i in (-2, -1, 1, 2)]
    for i, exact in enumerate(schedule.derivatives(times)):
        far_low, low, high, far_high = (v[i] for v in values)
        numeric = (8 * (high - low) - (far_high - far_low)) / (12 * h)
        worst = max(worst, float(((exact - numeric).abs() / (1 + exact.abs())).max()))
    return worst, "<= 1e-6", worst <= 1e-6


def _variance(schedule: Schedule) -> tuple[object, str, bool]:
    """alpha^2 + sigma^2 = 1."""
    alpha, sigma = schedule(_TIMES)
    worst = float((alpha**2 + sigma**2 - 1).abs().max())
    return worst, "<= 1e-13", worst <= 1e-13
