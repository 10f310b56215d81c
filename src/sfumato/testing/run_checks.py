"""How every solver must behave in a run: rows apart, runs apart, evaluations as declared, conditions passed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Schedule, Solver, evaluations, grids, sample, steps
from .exact import Counted
from .grids import uniform
from .learned import fitting
from .probe import moments
from .report import Case, title_of
from .table import CLASSES, DOT, PICTURES, POINT


def run_laws(name: str, solver: Solver, schedule: Schedule) -> Iterator[Case]:
    """Yield the checks of a solver's runs on a schedule."""
    for check in (_one_step, _one_step_inside, _rows_apart, _runs_apart, _counted, _conditions, _start_kept, _draws):
        title = title_of(check)
        yield Case(f"solver: {title}", name, lambda c=check: c(solver, schedule))


def _one_step(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """One step from t = 1 to 0 is E[x0 | x1]."""
    x = CLASSES.sample(5, 1, dtype=torch.float64) * 1.5
    end = sample(
        fitting(solver, CLASSES, schedule), solver=solver, grid=grids.uniform(schedule, 1), seeds=range(5), x=x
    )
    worst = float((end - fitting(solver, CLASSES, schedule)(x, 1.0)).abs().max())
    return worst, "0", worst == 0


def _one_step_inside(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """A single short step that ends above 0 hardly moves the distribution."""
    lam = schedule.lam(0.5)
    grid = torch.tensor([0.5, schedule.inverse(lam + 1e-3)], dtype=torch.float64)
    model = POINT if getattr(solver, "distilled", False) else DOT
    mean, variance = moments(solver, schedule, model, grid, fitting(solver, model, schedule))
    end = model.marginal(schedule, float(grid[1]))
    worst = max(abs(mean - float(end.mean)), abs(variance - float(end.covariance))) / float(end.covariance)
    return worst, "<= 0.1", worst <= 0.1


def _rows_apart(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """A row is bit-identical alone, permuted and in a batch, also where B = H = W."""
    denoiser, grid = fitting(solver, PICTURES, schedule), uniform(solver, schedule, 4)
    y = torch.tensor([2, 0, 3, 1])
    differing = 0
    for dtype in (torch.float32, torch.float64):

        def run(index: list[int], dtype: torch.dtype = dtype) -> Tensor:
            shape, cond = (len(index), *PICTURES.shape), {"y": y[index]}
            return sample(denoiser, shape, solver=solver, grid=grid, seeds=index, cond=cond, dtype=dtype)

        batch = run([0, 1, 2, 3])
        differing += int((run([2, 0, 3, 1]) != batch[[2, 0, 3, 1]]).sum())
        differing += sum(int((run([i]) != batch[i : i + 1]).sum()) for i in range(4))
        differing += int(not batch.isfinite().all()) + int(batch.dtype != dtype)
    return differing, "0 values differ", differing == 0


def _hand(
    solver: Solver, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Mapping[str, Any]
) -> Iterator[Tensor]:
    """Yield the states of a run, stepped by hand."""
    state = solver.init(x)
    for k in steps(denoiser.schedule, grid):
        x, state = solver.step(denoiser, x, k, state, noise, cond)
        yield x


@torch.no_grad()
def _runs_apart(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """Two runs stepped in turn are each as if alone."""
    start = min(schedule.inverse(-2.0), 0.99)
    runs = []
    for model, n, seed in ((CLASSES, 7, 1), (PICTURES, 5, 2)):
        grid = grids.uniform(schedule, n, start=start, end=0.05 + 0.05 * seed)
        x = model.sample(3, seed, dtype=torch.float64)
        runs.append((solver, fitting(solver, model, schedule), x, grid, Noise(range(seed, seed + 3)), {}))
    alone = [sample(r[1], solver=solver, grid=r[3], seeds=r[4], x=r[2]) for r in runs]
    turns = [_hand(r[0], r[1], r[2].clone(), r[3], r[4], r[5]) for r in runs]
    ends: list[Tensor] = [r[2] for r in runs]
    for i in range(7):
        for j, turn in enumerate(turns):
            if i < len(runs[j][3]) - 1:
                ends[j] = next(turn)
    differing = sum(int((a != b).sum()) for a, b in zip(alone, ends))
    return differing, "0 values differ", differing == 0


def _counted(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """Evaluations are as declared."""
    counts = []
    for n, end in ((1, 0.0), (2, 0.0), (7, 0.0), (3, 0.2)):
        counted, grid = Counted(fitting(solver, CLASSES, schedule)), grids.uniform(schedule, n, end=end)
        sample(counted, (2, 2), solver=solver, grid=grid, seeds=(0, 1))
        counts.append((counted.calls, evaluations(solver, grid, schedule)))
    # None: the solver chooses its own steps
    return [c for c, _ in counts], str([e for _, e in counts]), all(e is None or c == e for c, e in counts)


def _conditions(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """Every evaluation gets the conditions."""
    grid, shape = uniform(solver, schedule, 6), (4, 2)
    worst = 0.0
    for y in (0, 1):
        ends = [
            sample(
                fitting(solver, model, schedule),
                shape,
                solver=solver,
                grid=grid,
                seeds=range(4),
                cond=cond,
                dtype=torch.float64,
            )
            for model, cond in ((CLASSES, {"y": torch.full((4,), y)}), (CLASSES.conditional(y), {}))
        ]
        worst = max(worst, float((ends[0] - ends[1]).abs().max()))
    return worst, "<= 1e-11", worst <= 1e-11


def _start_kept(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """The same call twice gives the same bits, and leaves its input alone."""
    x = CLASSES.sample(4, 1)
    before = x.clone()
    ends = [
        sample(fitting(solver, CLASSES, schedule), solver=solver, grid=grids.uniform(schedule, 5), seeds=range(4), x=x)
        for _ in range(2)
    ]
    differing = int((ends[0] != ends[1]).sum()) + int((x != before).sum())
    return differing, "0 values differ", differing == 0


def _draws(solver: Solver, schedule: Schedule) -> tuple[object, str, bool]:
    """Other seeds from the same start matter exactly when noise is declared."""
    x, grid = CLASSES.sample(4, 1), grids.uniform(schedule, 5)
    ends = [
        sample(fitting(solver, CLASSES, schedule), solver=solver, grid=grid, seeds=seeds, x=x)
        for seeds in (range(4), range(9, 13))
    ]
    differ = bool((ends[0] != ends[1]).any(1).all()) if solver.stochastic else bool((ends[0] != ends[1]).any())
    return differ, str(solver.stochastic), differ == solver.stochastic
