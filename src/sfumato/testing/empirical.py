"""A finite data set as a distribution: the ideal denoiser that a network fitted without error would be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, Schedule
from .exact import ExactDenoiser, draws, float64
from .mixture import GaussianMixture


class Empirical:
    """The points p themselves, each as likely: E[x_0 | x_t] = sum_p p softmax(-|x_t - alpha p|^2 / (2 sigma^2)).

    `points` [n, ...], such as images [n, C, H, W]. With `labels`, n integers from 0, the denoiser takes `y`, the class
    of each row, whose null value is the number of classes. It has no density; `marginal` has one, for t > 0.

    Raises `InputError` for shapes that do not fit.
    """

    def __init__(self, points: Any, labels: Sequence[int] | Tensor | None = None) -> None:
        self.points = float64(points)
        if self.points.ndim < 2 or len(self.points) == 0:
            raise InputError(f"Empirical.points has shape {tuple(self.points.shape)}: give one row a point")
        self.shape = tuple(self.points.shape[1:])
        self.labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).clone()
        if self.labels is not None and (self.labels.shape != self.points.shape[:1] or int(self.labels.min()) < 0):
            raise InputError(f"Empirical.labels must be {len(self.points)} integers from 0")

    @property
    def cond(self) -> Mapping[str, Any]:
        """`y` with the number of classes as its null value, where there are labels."""
        return {} if self.labels is None else {"y": int(self.labels.max()) + 1}

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return n of the points, drawn with replacement; draw i depends on (seed, i) alone."""
        index = (draws(n, seed).uniform("point") * len(self.points)).long()
        return self.points[index].to(dtype)

    def marginal(self, schedule: Schedule, t: float) -> GaussianMixture:
        """Return the distribution of x_t, t > 0: a Gaussian of variance sigma^2 about each alpha p."""
        alpha, sigma = schedule(t)
        if sigma <= 0.0:
            raise InputError(f"a finite data set has no density at t={t}: give t > 0")
        return GaussianMixture(alpha * self.points, sigma**2, labels=self.labels)

    def denoiser(self, schedule: Schedule) -> ExactDenoiser:
        """Return E[x_0 | x_t], and E[x_0 | x_t, y] with `y`; where sigma = 0 it is the nearest point."""
        return ExactDenoiser(model=self, schedule=schedule)

    def posterior_mean(self, x: Tensor, alpha: Any, sigma: Any, cond: Mapping[str, Tensor]) -> Tensor:
        """Return E[x_0 | x, cond] for x [B, D] = alpha x_0 + sigma eps."""
        points, y = self.points.flatten(1).to(x.device), cond.get("y")
        rows = [
            self._row(points, row.clone(), _at(alpha, i), _at(sigma, i), None if y is None else int(y[i]))
            for i, row in enumerate(x)
        ]
        return torch.stack(rows)

    def _row(self, points: Tensor, x: Tensor, alpha: float, sigma: float, y: int | None) -> Tensor:
        # one row at a time: the same shapes, hence the same bits, whatever the batch
        distance = (x - alpha * points).square_().sum(1)
        if y is not None and y != self.cond["y"]:
            distance.masked_fill_((torch.as_tensor(self.labels) != y).to(x.device), math.inf)
        nearest = distance.min()
        if not math.isfinite(float(nearest)):
            raise InputError(f"no point has the label y={y}; the null class is {self.cond.get('y')}")
        share = torch.exp((nearest - distance) / max(2 * sigma * sigma, 1e-300))
        return (share / share.sum()) @ points


def _at(value: Any, i: int) -> float:
    return float(value[i, 0]) if isinstance(value, Tensor) else value
