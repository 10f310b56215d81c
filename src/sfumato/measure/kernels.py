"""Kernels, and the unbiased squared maximum mean discrepancy with its sampling error (Gretton et al. 2012)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..core import InputError, register
from .distances import squared_distances

_TILE = 512  # of the kernel matrix at a time: 2 MiB, so that memory is constant and caches hold it


class Kernel(Protocol):
    """A positive definite function of two rows."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k(x_i, y_j), [m, n], from float64 rows x [m, d] and y [n, d]."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class RBF:
    """k(x, y) = mean over b of exp(-|x - y|^2 / (2 b^2)).

    Default bandwidths: six in geometric progression from 0.05 to 3, for data of unit scale. Fine detail shows in the
    small ones and displaced mass in the large; a single one at the median distance is blind to small modes.
    """

    bandwidths: tuple[float, ...] = tuple(0.05 * 60 ** (i / 5) for i in range(6))

    def __post_init__(self) -> None:
        if not self.bandwidths or min(self.bandwidths) <= 0:
            raise InputError(f"RBF.bandwidths must be positive, got {self.bandwidths}")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k(x_i, y_j)."""
        d2 = squared_distances(x, y)
        total, term = torch.zeros_like(d2), torch.empty_like(d2)
        for b in self.bandwidths:
            total += torch.mul(d2, -0.5 / b**2, out=term).exp_()
        return total.div_(len(self.bandwidths))

    def __str__(self) -> str:
        return f"RBF {', '.join(f'{b:.4g}' for b in self.bandwidths)}"


@register
@dataclass(frozen=True, kw_only=True)
class Cubic:
    """k(x, y) = (x . y / d + 1)^3, the kernel of the kernel distance (Binkowski et al. 2018, arXiv 1801.01401)."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k(x_i, y_j)."""
        base = (x @ y.T).div_(x.shape[1]).add_(1)
        return base * base * base

    def __str__(self) -> str:
        return "cubic"


class Discrepancy(NamedTuple):
    """MMD^2 of one pair of sets, and the variance components of its estimator (`variance`)."""

    value: float
    components: tuple[float, float, float, float, float]


def discrepancy(x: Tensor, y: Tensor, kernel: Kernel) -> Discrepancy:
    """Return the unbiased MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j).

    It may be negative (Gretton et al. 2012, lemma 6). The components are unbiased estimates of Hoeffding's: the
    variances of a row's own effect in x and in y, and the mean squares of the doubly centred kernel within x, within y
    and between. Raises `InputError` below 4 rows a side.
    """
    if min(len(x), len(y)) < 4:
        raise InputError(f"MMD^2 and its error need at least 4 rows a side, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    m, n = len(x), len(y)
    (xx, xx2), (yy, yy2) = _within(x, kernel), _within(y, kernel)
    xy, yx, xy2 = _between(x, y, kernel)
    value = float(xx.sum()) / (m * (m - 1)) + float(yy.sum()) / (n * (n - 1)) - 2 * float(xy.sum()) / (m * n)
    within_x, within_y = _centred_within(xx, xx2), _centred_within(yy, yy2)
    between = xy2 - xy.square().sum() / n - yx.square().sum() / m + xy.sum().square() / (m * n)
    between = float(between) / ((m - 1) * (n - 1))
    own_x = float((xx / (m - 2) - xy / n).var()) - within_x / (m - 2) - between / n
    own_y = float((yy / (n - 2) - yx / m).var()) - within_y / (n - 2) - between / m
    return Discrepancy(value, (own_x, own_y, within_x, within_y, between))


def variance(components: Sequence[float], m: int, n: int) -> float:
    """Return the variance of the MMD^2 of m and n rows: 4/m own_x + 4/n own_y + 2/(m(m-1)) within_x
    + 2/(n(n-1)) within_y + 4/(mn) between, a negative component taken as 0.
    """
    own_x, own_y, within_x, within_y, between = (max(c, 0.0) for c in components)
    own = 4 * own_x / m + 4 * own_y / n
    return own + 2 * within_x / (m * (m - 1)) + 2 * within_y / (n * (n - 1)) + 4 * between / (m * n)


def standard_error(components: Sequence[float], m: int, n: int) -> float:
    """Return the square root of `variance`."""
    return math.sqrt(variance(components, m, n))


def _within(x: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Return the row sums and the sum of squares of k(x, x) off its diagonal; each pair is computed once."""
    rows, squares = x.new_zeros(len(x)), x.new_zeros(())
    for i in range(0, len(x), _TILE):
        for j in range(i, len(x), _TILE):
            tile = kernel(x[i : i + _TILE], x[j : j + _TILE])
            if i == j:
                tile.fill_diagonal_(0)
            else:
                rows[j : j + _TILE] += tile.sum(0)
            rows[i : i + _TILE] += tile.sum(1)
            squares += tile.square_().sum() * (1 if i == j else 2)
    return rows, squares


def _between(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
    """Return the row sums, the column sums and the sum of squares of k(x, y)."""
    rows, columns, squares = x.new_zeros(len(x)), x.new_zeros(len(y)), x.new_zeros(())
    for i in range(0, len(x), _TILE):
        for j in range(0, len(y), _TILE):
            tile = kernel(x[i : i + _TILE], y[j : j + _TILE])
            rows[i : i + _TILE] += tile.sum(1)
            columns[j : j + _TILE] += tile.sum(0)
            squares += tile.square_().sum()
    return rows, columns, squares


def _centred_within(rows: Tensor, squares: Tensor) -> float:
    """Return the unbiased mean square of the doubly centred kernel from off-diagonal sums (Szekely and Rizzo 2014)."""
    m = len(rows)
    total = squares - 2 * rows.square().sum() / (m - 2) + rows.sum().square() / ((m - 1) * (m - 2))
    return float(total) / (m * (m - 3))
