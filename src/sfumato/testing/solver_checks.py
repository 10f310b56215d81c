"""What every solver must do on every schedule: converge, at its order, to the exact answer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core import Schedule, Solver, Step, grids, sample
from .exact import Model
from .gaussian import Gaussian
from .grids import uneven
from .probe import moments
from .report import Case
from .table import DOT, LINE, PLANE

_POINTS = 48


def convergence(name: str, solver: Solver, schedule: Schedule) -> Iterator[Case]:
    """Yield the convergence checks of a solver on a schedule."""
    if solver.stochastic:
        yield Case("solver: moments converge", name, lambda: _moments(solver, schedule))
        yield Case("solver: moments from t = 1 to 0", name, lambda: _moments_to_the_end(solver, schedule))
    else:
        yield Case("solver: order, Gaussian", name, lambda: _order(solver, schedule, PLANE))
        yield Case("solver: order, mixture", name, lambda: _order(solver, schedule, LINE))
        yield Case("solver: right from t = 1 to 0", name, lambda: _to_the_end(solver, schedule))


def drawn(name: str, solver: Solver, schedule: Schedule) -> Iterator[Case]:
    """Yield the check that the noise of real runs has the moments that it should."""
    if solver.stochastic:
        yield Case("solver: moments of 4000 samples", name, lambda: _drawn(solver, schedule))


@functools.lru_cache(maxsize=256)
def _truth(schedule: Schedule, model: Any, times: tuple[float, ...]) -> tuple[Tensor, list[Tensor]]:
    """Return draws of x_t at times[0], and where the exact flow takes them at each of the others; all solvers ask it."""
    x = model.marginal(schedule, times[0]).sample(_POINTS, 11, dtype=torch.float64)
    return x, [model.flow(schedule, x, times[0], s) for s in times[1:]]


def _error(solver: Solver, schedule: Schedule, model: Gaussian | Model, grid: Tensor) -> float:
    """Return the mean distance between a run and the exact flow from the same start x_t, over four places on the way.

    At one place alone the leading term of the error may happen to cancel, and the slope there is not the order: the
    third-order multistep solver has 3.6 at the end of the Gaussian's run, where its error changes sign.
    """
    each = (len(grid) - 1) // 4
    x, exact = _truth(schedule, model, tuple(grid[::each].tolist()))
    seen: list[Tensor] = []

    def look(k: Step, state: Tensor) -> None:
        if (k.i + 1) % each == 0:
            seen.append(state.clone())

    sample(model.denoiser(schedule), solver=solver, grid=grid, seeds=range(_POINTS), x=x, callback=look)
    return sum(float((a - b).abs().mean()) for a, b in zip(seen, exact)) / len(exact)


def _order(solver: Solver, schedule: Schedule, model: Gaussian | Model) -> tuple[object, str, bool]:
    coarse, fine = (_error(solver, schedule, model, uneven(schedule, n)) for n in (80, 320))
    slope = math.log2(coarse / fine) / 2
    return slope, f"{solver.order} +- 0.2, error < 0.1", abs(slope - solver.order) <= 0.2 and fine < 0.1


def _to_the_end(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    coarse, fine = (_error(solver, schedule, PLANE, grids.uniform(schedule, n)) for n in (64, 256))
    return fine, "<= 0.05, and falling with n", fine <= 0.05 and fine <= 0.5 * coarse


def _bias(solver: Solver, schedule: Schedule, grid: Tensor) -> tuple[float, float]:
    """Return the errors of mean (in standard deviations) and variance (relative) at the end of a run."""
    mean, variance = moments(solver, schedule, DOT, grid)
    end = DOT.marginal(schedule, float(grid[-1]))
    true_mean, true_variance = float(end.mean), float(end.covariance)
    return (mean - true_mean) / math.sqrt(true_variance), variance / true_variance - 1


def _limit(coarse: tuple[float, float], fine: tuple[float, float]) -> tuple[float, float]:
    """Return the larger error at the finer step, and of the two runs extrapolated to no step at all."""
    # to first order in the step, 4 times smaller in `fine`
    return max(map(abs, fine)), max(abs((4 * f - c) / 3) for c, f in zip(coarse, fine))


def _moments(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    fine, limit = _limit(*(_bias(solver, schedule, uneven(schedule, n)) for n in (80, 320)))
    return limit, "<= 0.01 in the limit, <= 0.05 at 320 steps", limit <= 0.01 and fine <= 0.05


def _moments_to_the_end(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    fine, limit = _limit(*(_bias(solver, schedule, grids.uniform(schedule, n)) for n in (64, 256)))
    return limit, "<= 0.03 in the limit, <= 0.1 at 256 steps", limit <= 0.03 and fine <= 0.1


def _drawn(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    n, grid = 4000, uneven(schedule, 20)
    mean, variance = moments(solver, schedule, DOT, grid)
    x = DOT.marginal(schedule, float(grid[0])).sample(n, 3, dtype=torch.float64)
    end = sample(DOT.denoiser(schedule), solver=solver, grid=grid, seeds=range(n), x=x)
    of_mean = abs(float(end.mean()) - mean) / math.sqrt(variance / n)
    of_variance = abs(float(end.var()) / variance - 1) / math.sqrt(2 / n)
    worst = max(of_mean, of_variance)
    return worst, "<= 4 standard errors of the exact moments", worst <= 4
