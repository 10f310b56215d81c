"""Everything together: the grid of n steps for a denoiser, a solver and some data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Batch, Denoiser, InputError, Solver, device_of, fold, sample
from ..measure import sliced_wasserstein
from .klub import KLUB
from .search import Aligned, Search, align, guesses, times

BASE = 10  # steps that are searched at first: the paper's


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleDistance:
    """The sliced Wasserstein distance of `n` samples, drawn with `solver` on a grid, to the data's rows.

    All grids start from the same noise, so that they compare. Rows take the conditions of data rows.
    """

    denoiser: Denoiser
    solver: Solver
    data: Batch
    n: int = 1000
    seed: int = 0
    chunk: int = 250

    def __call__(self, levels: Tensor) -> float:
        """Return the distance for the grid through `levels`."""
        grid = times(self.denoiser.schedule, levels.tolist())
        x0, parts = self.data.x0, list[Tensor]()
        for rows in torch.arange(self.n).split(self.chunk):
            seeds = [fold("align", self.seed, i) for i in rows.tolist()]
            cond = {k: v[rows % len(x0)] for k, v in self.data.cond.items()}
            shape = (len(rows), *x0.shape[1:])
            place = device_of(self.denoiser)
            parts.append(
                sample(self.denoiser, shape, solver=self.solver, grid=grid, seeds=seeds, cond=cond, device=place)
            )
        found = torch.cat(parts).cpu().flatten(1)
        return float(sliced_wasserstein(found.double(), x0.cpu().flatten(1).double()))


def optimise(
    denoiser: Denoiser,
    data: Batch,
    n: int,
    *,
    solver: Solver,
    sigma_max: float = 80.0,
    sigma_min: float | None = None,
    draws: int = 128,
    samples: int = 1000,
    seed: int = 0,
    search: Search | None = None,
) -> Iterator[Aligned]:
    """Yield ever better grids of n steps for `denoiser` and `solver`, each `Aligned`; the last is the result.

    The search lowers the `KLUB` of one half of the data from the best first guess, and stops by the distance of
    samples to the other half. More than 10 steps are reached by doubling and interpolation: `grid(schedule, n)`.
    `sigma_max` is lowered to the schedule's own; `sigma_min`, where the last step begins to ignore the data's detail,
    is by default 1/20 of the data's standard deviation (0.03 for latents of deviation 1 in the paper).

    Raises `InputError` where there are fewer than 4 rows of data, or the levels leave no room.
    """
    if len(data.x0) < 4:
        raise InputError(f"{len(data.x0)} rows of data are too few to align a grid: give at least 4")
    if n < 2:
        raise InputError(f"a grid of {n} steps has nothing to move: give at least 2")
    place = device_of(denoiser)
    mine, other = (Batch(data.x0[i::2].to(place), {k: v[i::2].to(place) for k, v in data.cond.items()}) for i in (0, 1))
    cost = KLUB(denoiser=denoiser, data=mine, seed=seed, draws=draws)
    held_out = SampleDistance(denoiser=denoiser, solver=solver, data=other, n=samples, seed=seed)
    high = min(sigma_max, math.exp(min(-denoiser.schedule.lam(1.0), 700.0)))
    low = 0.05 * cost.c if sigma_min is None else sigma_min
    if not 0 < low < high:
        raise InputError(f"sigma_min={low:.4g} must lie between 0 and sigma_max={high:.4g}")
    first = min(guesses(min(n, BASE), high, low, cost.c).values(), key=held_out)
    yield from align(first, n, cost, held_out, search)
