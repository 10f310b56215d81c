"""Euclidean distances between rows, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import InputError

_ROWS = 1024  # rows of the distance matrix held at a time


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2, [m, n], from |x|^2 + |y|^2 - 2 x . y, never below 0."""
    base = x.square().sum(1)[:, None] + y.square().sum(1)
    return base.addmm_(x, y.T, alpha=-2).clamp_(min=0)


def nearest_distances(x: Tensor, data: Tensor) -> Tensor:
    """Return float64[n], the distance of each row of x [n, d] to the nearest row of data [m, d].

    The neighbour is found by a matrix product and the distance then taken from the difference, so that a copy is at 0.
    """
    x, data = x.double(), data.double()
    centre = data.mean(0)
    y = data - centre
    near = [squared_distances(block - centre, y).argmin(1) for block in x.split(_ROWS)]
    return (x - data[torch.cat(near)]).norm(dim=1)


def radii(x: Tensor, k: int) -> Tensor:
    """Return float64[n], the distance of each row of x [n, d] to its k-th nearest other row.

    Raises `InputError` unless 1 <= k < n.
    """
    if not 1 <= k < len(x):
        raise InputError(f"the k-th neighbour needs 1 <= k < the number of rows, got k={k} and {len(x)} rows")
    x = x.double()
    centred = x - x.mean(0)
    out = []
    for i in range(0, len(x), _ROWS):
        d2 = squared_distances(centred[i : i + _ROWS], centred)
        d2.diagonal(i).fill_(torch.inf)
        near = d2.topk(k, largest=False).indices
        out.append((x[i : i + _ROWS, None] - x[near]).norm(dim=2).amax(1))
    return torch.cat(out)


def inside(x: Tensor, centres: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many balls |. - centres_j| <= radius_j hold each row of x, and how many rows each ball holds."""
    x, centres = x.double(), centres.double()
    middle = centres.mean(0)
    y, r2 = centres - middle, radius.square()
    rows, balls = [], torch.zeros(len(centres), dtype=torch.int64)
    for block in x.split(_ROWS):
        held = squared_distances(block - middle, y) <= r2
        rows.append(held.sum(1))
        balls += held.sum(0)
    return torch.cat(rows), balls
