"""What the methods share: a denoiser that knows measurements, the variance of x_0 given x_t, and a linear solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..core import InputError, Schedule, per_row
from ..guidance.guided import Around
from .operators import LinearOperator, Solvable


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured(Around):
    """A denoiser that is told y = A x_0 + noise n: `operator` A, and `y`, a row each or one row for all.

    Raises `InputError` for measurements that are not those of the data that are denoised.
    """

    operator: LinearOperator
    y: Tensor

    def outermost(self, x: Tensor) -> None:
        """Raise `InputError` where `x` is being differentiated: this answer holds gradients that cannot be again."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                f"{type(self).__name__} takes a gradient on x_t and cannot stand inside of what takes another: "
                "put it around the other guidance, not inside"
            )

    def measured(self, x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Return (y, y - A x0) in the dtype of `x`."""
        y = self.y.to(x).expand(len(x), *self.y.shape[1:]) if len(self.y) == 1 else self.y.to(x)
        seen = self.operator.A(x0)
        if y.shape != seen.shape:
            raise InputError(f"y has the shape {tuple(y.shape)} where A x_0 has {tuple(seen.shape)}: give a row each")
        return y, y - seen


def spread(schedule: Schedule, variance: float, t: float | Tensor, x: Tensor) -> Any:
    """Return r^2 = v sigma^2 / (alpha^2 v + sigma^2), shaped for x: Var[x_0 | x_t] for data N(m, v I)."""
    alpha, sigma = schedule(cast(Any, t))
    return per_row(variance * sigma * sigma / (alpha * alpha * variance + sigma * sigma), x)


def solved(operator: LinearOperator, y: Tensor, a: Any, b: float) -> Tensor:
    """Return (a A A^T + b)^-1 y: by the operator's own `solve`, else by conjugate gradients."""
    if isinstance(operator, Solvable):
        return operator.solve(y, _like(a, y), b)
    return conjugate_gradients(lambda v: _like(a, y) * operator.A(operator.A_adjoint(v)) + b * v, y)


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], y: Tensor, *, steps: int = 0) -> Tensor:
    """Return u with matrix(u) = y for a symmetric matrix without negative eigenvalues, row by row (Hestenes 1952).

    Starts at 0, so a part of y that the matrix cannot reach is left out. A row stops where its residual is rounding, or
    after `steps`: by default as many as a row has values, which is exact but for rounding.
    """
    u, r = torch.zeros_like(y), y
    p, power = r, _dot(r, r)
    eps = torch.finfo(y.dtype).eps
    least, largest = power * (10 * eps) ** 2, torch.zeros_like(power)
    for _ in range(steps or y[0].numel()):
        going = power > least
        if not bool(going.any()):
            break
        image = matrix(p)
        curve = _dot(p, image)
        # a direction that the matrix all but removes is one that only rounding has left to go
        stretch = curve / _dot(p, p).where(going, torch.ones_like(curve))
        largest = torch.maximum(largest, stretch)
        going = going & (stretch > 1e3 * eps * largest)
        step = torch.where(going, power / curve.where(going, torch.ones_like(curve)), 0.0)
        u, r = u + step * p, r - step * image
        before, power = power, torch.where(going, _dot(r, r), torch.zeros_like(power))
        p = r + power / before.where(before > 0, torch.ones_like(before)) * p
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *(1 for _ in a.shape[1:]))


def _like(value: Any, y: Tensor) -> Any:
    """Return a coefficient [B, 1, ...] shaped for measurements, which may have another number of axes than the data."""
    return value.reshape(-1, *(1 for _ in y.shape[1:])) if isinstance(value, Tensor) else value
