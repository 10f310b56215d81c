"""The kernel distance between two sets of features (KID, Binkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core import InputError, Noise
from .features import FeatureSet, measured, pair
from .figure import Figure
from .kernels import Cubic, discrepancy, variance

_CUBIC = Cubic()


def kernel_distance(
    samples: FeatureSet | Tensor,
    reference: FeatureSet | Tensor,
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
) -> Figure:
    """Return the mean unbiased MMD^2 of `subsets` random subsets of `size` rows a side, lower is better.

    The kernel is (x . y / d + 1)^3. Default 100 subsets of 1,000, as published. The expectation depends
    neither on the counts nor on the size of the subsets, which only bound the work; where one subset holds all rows,
    one is taken.

    The error is a standard error of the mean, sqrt(V + s^2 / subsets): V is the variance that all rows together would
    have, from the variance components of the subsets, and s the spread of the subsets given the rows. (The spread
    alone, often printed as the error, knows nothing of the rows that were never drawn.)

    Raises `InputError` for a size above the number of rows.
    """
    x, y = pair(samples, reference)
    if not 4 <= size <= min(x.n, y.n):
        raise InputError(f"kernel_distance needs 4 <= size <= rows, got size {size} for {x.n} and {y.n} rows")
    if subsets < 1:
        raise InputError(f"kernel_distance needs at least one subset, got {subsets}")
    runs = 1 if size == x.n == y.n else subsets
    drawn = [discrepancy(_draw(x, size, seed, r, "x"), _draw(y, size, seed, r, "y"), _CUBIC) for r in range(runs)]
    values = torch.tensor([d.value for d in drawn], dtype=torch.float64)
    components = torch.tensor([d.components for d in drawn], dtype=torch.float64).mean(0).tolist()
    spread = float(values.var()) / runs if runs > 1 else 0.0
    error = math.sqrt(variance(components, x.n, y.n) + spread)
    known = error if runs > 1 or size == x.n == y.n else None
    settings = f"{runs} subsets of {size}, seed {seed}"
    return measured("kernel_distance", float(values.mean()), x, y, better="lower", error=known, settings=settings)


def _draw(s: FeatureSet, size: int, seed: int, run: int, side: str) -> Tensor:
    if size == s.n:
        return s.rows
    order = Noise(range(s.n)).uniform("kernel_distance", seed, run, side).argsort()
    return s.rows[order[:size]]
