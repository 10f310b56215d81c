"""Test beds that several systems share: laws whose exact denoiser is known, and how far samples are from them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Solver, fold, sample
from ..measure import sliced_wasserstein
from ..testing import GaussianMixture


@cache
def plane() -> GaussianMixture:
    """Return three round Gaussians in the plane, of unequal weight and width; the overall standard deviation is 1.006.

    Means (-1.2, -0.6), (0.9, 1), (1.1, -1.1), standard deviations 0.25, 0.35, 0.2, weights 0.3, 0.45, 0.25.
    """
    means = [[-1.2, -0.6], [0.9, 1.0], [1.1, -1.1]]
    return GaussianMixture(means, torch.tensor([0.25, 0.35, 0.2]).double() ** 2, [0.3, 0.45, 0.25])


def seeds(n: int, *key: int | str) -> Noise:
    """Return the noise of n rows that belong to `key`."""
    return Noise([fold(*key, i) for i in range(n)])


def rows_of(key: str, n: int, *, seed: int = 0) -> list[int]:
    """Return the seeds of n rows that belong to (key, seed): another seed's begin where this one's end."""
    return [fold(key, seed * n + i) for i in range(n)]


def draw(
    denoiser: Denoiser, n: int, solver: Solver, grid: Tensor, *key: int | str, width: int = 2, **more: Tensor
) -> Tensor:
    """Return n float64 samples of points; rows belong to `key`, so solvers that share it share their start."""
    return sample(denoiser, (n, width), solver=solver, grid=grid, seeds=seeds(n, *key), dtype=torch.float64, cond=more)


def slope(steps: Iterable[float], errors: Iterable[float]) -> float:
    """Return the least-squares slope of -ln error over ln steps: the order of convergence."""
    x, y = (torch.tensor(list(v), dtype=torch.float64).log() for v in (steps, errors))
    x = x - x.mean()
    return float(-(x * y).sum() / (x * x).sum())


def typical(error: Tensor) -> float:
    """Return the median length of the rows: a few that end in another mode do not hide the rest."""
    return float(error.flatten(1).norm(dim=1).median())


def rms(error: Tensor) -> float:
    """Return the root of the mean squared length of the rows."""
    return float(error.flatten(1).square().sum(1).mean().sqrt())


def distance(samples: Tensor, truth: Tensor) -> float:
    """Return the sliced Wasserstein distance of two point sets, over 128 directions."""
    return float(sliced_wasserstein(samples, truth))


def floor(law: GaussianMixture, truth: Tensor, *key: int) -> float:
    """Return the mean distance of four more draws of `law`, as many as `truth` has, to `truth`: a perfect model's."""
    draws = (law.sample(len(truth), fold("floor", *key, i), dtype=torch.float64) for i in range(4))
    return sum(distance(points, truth) for points in draws) / 4
