"""Exact moments of a stochastic run, without sampling error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Solver, sample
from ..core import Schedule as Schedule
from .gaussian import Gaussian


class _Full(Exception):
    """There are more draws than rows."""


class _Probe(Noise):
    """Noise whose j-th draw is 1 in row j + 2 and 0 elsewhere: a linear run then shows each draw's effect apart."""

    def __init__(self, rows: int) -> None:
        super().__init__(range(rows))
        self.drawn: dict[Any, int] = {}

    def normal(
        self, shape: Sequence[int], *key: int | str, dtype: torch.dtype = torch.float32, device: Any = "cpu"
    ) -> Tensor:
        place = self.drawn.setdefault(key, len(self.drawn)) + 2
        if place >= len(self):
            raise _Full
        out = torch.zeros(tuple(shape), dtype=dtype, device=device)
        out[place] = 1.0
        return out

    def like(self, x: Tensor, *key: int | str) -> Tensor:
        return self.normal(x.shape, *key, dtype=x.dtype, device=x.device)

    def increment(self, x: Tensor, t: float, s: float, *key: int | str) -> Tensor:
        return self.like(x, *key, "increment", f"{t!r} {s!r}")


def moments(
    solver: Solver, schedule: Schedule, model: Gaussian, grid: Tensor, denoiser: Denoiser | None = None
) -> tuple[float, float]:
    """Return the exact (mean, variance) at the end of a run on one-dimensional Gaussian data.

    The exact denoiser of a Gaussian is affine in x, so the end is affine in the start and in every draw:
    x = b + a x_start + sum_j c_j z_j. One run of a batch of unit vectors reads off a, b and the c_j. The start has the
    exact moments of x_t. Draws under different keys count as independent, as `Noise` makes them. A `denoiser` given in
    the place of the model's must be affine too.
    """
    steps, asked = len(grid) - 1, model.denoiser(schedule) if denoiser is None else denoiser
    start = model.marginal(schedule, float(grid[0]))
    mean, std = float(start.mean), math.sqrt(float(start.covariance))
    rows = max(2, solver.nfe or 0) * steps + 2
    while True:
        x = torch.full((rows, 1), mean, dtype=torch.float64)
        x[1] += std
        noise = _Probe(rows)
        try:
            end = sample(asked, solver=solver, grid=grid, seeds=noise, x=x)[:, 0]
            break
        except _Full:
            rows *= 4
    effects = end[1 : 2 + len(noise.drawn)] - end[0]
    return float(end[0]), float(effects.square().sum())
