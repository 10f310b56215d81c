"""A Gaussian's network that also says its variance: with both exact, a reverse chain of any length is exact."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..core import X0, Denoiser, LearnedVariance, Plain, Preconditioned, Schedule, Solver, per_row, posterior, steps
from ..solvers import DDPMLearned
from .exact import Model, exact_network
from .gaussian import Gaussian


class _Says(nn.Module):
    """[x0_hat, 2 v - 1] for data N(means[y], variance), with the v of each step of `grid`."""

    def __init__(self, means: Tensor, variance: float, schedule: Schedule, grid: Tensor) -> None:
        super().__init__()
        # `Preconditioned` runs a network in the dtype of its first parameter
        self.dtype_mark = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.means, self.variance = means, variance
        self.plan = [k for k in steps(schedule, grid) if k.sigma_s > 0.0]
        self.cond: dict[str, Any] = {"y": 0} if len(means) > 1 else {}

    def forward(self, x: Tensor, c_noise: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the exact output at x [B, D] and the times c_noise, which are those of the grid but for rounding."""
        times = torch.tensor([k.t for k in self.plan], dtype=torch.float64)
        nearest = (c_noise.double().expand(len(x))[:, None] - times).abs().argmin(1).tolist()
        rows = [self._row(i) for i in nearest]
        gain, alpha, v = (per_row(torch.tensor(column, dtype=torch.float64), x) for column in zip(*rows, strict=True))
        mean = self.means[0 if y is None else y]
        x0 = mean + gain * (x - alpha * mean)
        return torch.cat([x0, (2 * v - 1).expand_as(x0)], 1)

    def _row(self, i: int) -> tuple[float, float, float]:
        """Return d x0_hat / d x, alpha, and the v that makes step i's variance tilde + gain^2 Var(x_0 | x_t)."""
        k = self.plan[i]
        total = k.alpha_t**2 * self.variance + k.sigma_t**2
        q = posterior(k.alpha_t, k.sigma_t, k.alpha_s, k.sigma_s)
        exact = q.tilde + q.gain**2 * self.variance * k.sigma_t**2 / total
        return k.alpha_t * self.variance / total, k.alpha_t, math.log(exact / q.tilde) / math.log(q.beta / q.tilde)


def fitting(solver: Solver, model: Model, schedule: Schedule) -> Denoiser:
    """Return the exact denoiser that `solver` can run: for `DDPMLearned` a network that says v = 1/2, which is as right
    in the limit of small steps as any other v.
    """
    if isinstance(solver, DDPMLearned):
        return exact_network(model, schedule, LearnedVariance(prediction=X0()))
    return model.denoiser(schedule)


def exact_chain(model: Gaussian | Tensor, variance: float, schedule: Schedule, grid: Tensor) -> Denoiser:
    """Return a network whose prediction is `LearnedVariance`, exact in mean and variance for the steps of `grid`.

    The data are N(m, variance): `model` is a `Gaussian` of that variance, or means [classes, D], one for each class y,
    with 0 for the null. q(x_s | x_t) is Gaussian then, so ancestral sampling with both has the exact moments however
    few its steps are.
    """
    means = model.mean.reshape(1, -1) if isinstance(model, Gaussian) else model.double()
    network = _Says(means, variance, schedule, grid)
    return Preconditioned(network, schedule, LearnedVariance(prediction=X0()), Plain(scale=1.0))
