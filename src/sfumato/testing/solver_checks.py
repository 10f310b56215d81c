"""What every solver must do on every schedule: converge, at its order, to the exact answer."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core import Schedule, Solver, Step, grids, sample
from ..solvers import DDPMLearned
from .exact import Model
from .gaussian import Gaussian
from .grids import uneven
from .learned import exact_chain, fitting
from .probe import moments
from .report import Case
from .table import DOT, LINE, PLANE, POINT

_POINTS = 48


def convergence(name: str, solver: Solver, schedule: Schedule) -> Iterator[Case]:
    """Yield the convergence checks of a solver on a schedule."""
    if isinstance(solver, DDPMLearned):
        yield Case("solver: exact in three steps with the exact variance", name, lambda: _exact_chain(solver, schedule))
    if getattr(solver, "distilled", False):
        yield Case("solver: exact where the data are one point", name, lambda: _exact_for_a_point(solver, schedule))
    elif hasattr(solver, "rtol"):
        yield Case("solver: error falls with the tolerance, Gaussian", name, lambda: _met(solver, schedule, PLANE))
        yield Case("solver: error falls with the tolerance, mixture", name, lambda: _met(solver, schedule, LINE))
        yield Case("solver: right from t = 1 to 0", name, lambda: _met_to_the_end(solver, schedule))
    elif solver.stochastic:
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
    """Return draws of x_t at times[0], and where the exact flow takes them at each of the others; every solver asks."""
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


def _met(solver: Any, schedule: Schedule, model: Gaussian | Model) -> tuple[object, str, bool]:
    grid = uneven(schedule, 4)[[0, -1]]
    coarse, fine = (_missed(dataclasses.replace(solver, atol=v, rtol=v), schedule, model, grid) for v in (1e-2, 1e-4))
    return fine, "<= 5e-4, and a tenth of that at 100 times the tolerance", fine <= min(5e-4, 0.1 * coarse)


def _met_to_the_end(solver: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """Return the error from t = 1, where alpha may be 0, to the data in one interval and the last step."""
    grid = torch.tensor([1.0, schedule.inverse(math.log(1 / 0.002)), 0.0], dtype=torch.float64)
    error = _missed(dataclasses.replace(solver, atol=1e-4, rtol=1e-4), schedule, PLANE, grid)
    return error, "<= 5e-3, 50 times the tolerance of a step", error <= 5e-3


def _missed(solver: Solver, schedule: Schedule, model: Gaussian | Model, grid: Tensor) -> float:
    """Return the mean distance between a run's end and the exact flow's."""
    t, s = float(grid[0]), float(grid[-1])
    x = model.marginal(schedule, t).sample(_POINTS, 11, dtype=torch.float64)  # type: ignore[union-attr]
    end = sample(model.denoiser(schedule), solver=solver, grid=grid, seeds=range(_POINTS), x=x)
    return float((end - model.flow(schedule, x, t, s)).abs().mean())  # type: ignore[union-attr]


def _exact_chain(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """Return the larger error of mean and variance with a network that says the variance of each reverse step."""
    worst, variance = 0.0, float(DOT.covariance)
    for grid in (grids.uniform(schedule, 3, end=0.2), uneven(schedule, 4)):
        mean, found = moments(solver, schedule, DOT, grid, exact_chain(DOT, variance, schedule, grid))
        end = DOT.marginal(schedule, float(grid[-1]))
        worst = max(worst, abs(mean - float(end.mean)), abs(found / float(end.covariance) - 1))
    return worst, "<= 1e-10", worst <= 1e-10


def _exact_for_a_point(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """Return the larger error of mean and variance where posterior mean and end of the flow are the same point."""
    worst = 0.0
    for grid in (grids.uniform(schedule, 3, end=0.2), uneven(schedule, 8)):
        mean, variance = moments(solver, schedule, POINT, grid)
        end = POINT.marginal(schedule, float(grid[-1]))
        worst = max(worst, abs(mean - float(end.mean)), abs(variance / float(end.covariance) - 1))
    return worst, "<= 1e-8", worst <= 1e-8


def _to_the_end(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    coarse, fine = (_error(solver, schedule, PLANE, grids.uniform(schedule, n)) for n in (64, 256))
    return fine, "<= 0.05, and falling with n", fine <= 0.05 and fine <= 0.5 * coarse


def _bias(solver: Solver, schedule: Schedule, grid: Tensor) -> tuple[float, float]:
    """Return the errors of mean (in standard deviations) and variance (relative) at the end of a run."""
    mean, variance = moments(solver, schedule, DOT, grid, fitting(solver, DOT, schedule))
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
    if solver.order == 0:  # it mixes: equal steps of t leave few levels near the data to do so, and no power of n
        return fine, "<= 0.1 at 256 steps", fine <= 0.1
    return limit, "<= 0.03 in the limit, <= 0.1 at 256 steps", limit <= 0.03 and fine <= 0.1


def _drawn(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    n, grid = 4000, uneven(schedule, 20)
    mean, variance = moments(solver, schedule, DOT, grid, fitting(solver, DOT, schedule))
    x = DOT.marginal(schedule, float(grid[0])).sample(n, 3, dtype=torch.float64)
    end = sample(fitting(solver, DOT, schedule), solver=solver, grid=grid, seeds=range(n), x=x)
    of_mean = abs(float(end.mean()) - mean) / math.sqrt(variance / n)
    of_variance = abs(float(end.var()) / variance - 1) / math.sqrt(2 / n)
    worst = max(of_mean, of_variance)
    return worst, "<= 4 standard errors of the exact moments", worst <= 4
