"""A finite data set as a distribution: the ideal denoiser that a network fitted without error would be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, Schedule
from .exact import ExactDenoiser, draws, float64, total
from .mixture import GaussianMixture

_CHUNK = 1 << 16  # values of (rows x points x D) at a time
_TINY = 1e-300  # 2 sigma^2 at sigma = 0: only the nearest point is left


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
        points = self.points.flatten(1).T.contiguous().to(x.device)
        allowed = self._allowed(x, cond.get("y"))
        # a few rows at a time, so that what they need stays in the caches
        size = max(1, _CHUNK // points.numel())
        parts = [slice(i, i + size) for i in range(0, len(x), size)]
        return torch.cat(
            [
                _average(points, x[p], _rows(alpha, p), _rows(sigma, p), None if allowed is None else allowed[p])
                for p in parts
            ]
        )

    def _allowed(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        """Return bool[B, n]: which points belong to the class of each row; None for all."""
        if y is None or self.labels is None:
            return None
        y = y.to(x.device)
        allowed = (self.labels.to(x.device) == y[:, None]) | (y == self.cond["y"])[:, None]
        if y.shape != (len(x),) or not bool(allowed.any(-1).all()):
            raise InputError(f"y must name a class with points, or the null class {self.cond['y']}, for each row")
        return allowed


def _average(points: Tensor, x: Tensor, alpha: Any, sigma: Any, allowed: Tensor | None) -> Tensor:
    """Return sum_p p softmax(-|x - alpha p|^2 / (2 sigma^2)) for rows x [b, D] and points [D, n]."""
    scaled = alpha[:, None] * points if isinstance(alpha, Tensor) else alpha * points
    distance = total((x[:, :, None] - scaled).square_(), dim=1)
    if allowed is not None:
        distance = distance.masked_fill(~allowed, math.inf)
    width = 2 * sigma * sigma
    width = width.clamp(min=_TINY) if isinstance(width, Tensor) else max(width, _TINY)
    share = torch.exp((distance.amin(-1, keepdim=True) - distance) / width)
    return total((share / total(share)[:, None])[:, None, :] * points)


def _rows(value: Any, rows: slice) -> Any:
    return value[rows] if isinstance(value, Tensor) else value
