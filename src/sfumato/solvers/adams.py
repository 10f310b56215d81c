"""What the linear multistep solvers share: the past eps_hat, and the step that adds their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import Step, update


class Past(NamedTuple):
    """eps_hat of a past step as residual / sigma, residual = x - alpha x0_hat, at the noise level s = sigma / alpha."""

    residual: Tensor
    sigma: float
    s: float


class EqualSteps:
    """What PNDM and its kin declare: weights for equal steps, so of first order on other grids; no noise, a past."""

    order = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> tuple[Past, ...]:
        """Return an empty past."""
        return ()


def recall(x: Tensor, x0: Tensor, k: Step) -> Past:
    """Return what the start of this step leaves to the next ones."""
    s = k.sigma_t / k.alpha_t if k.alpha_t > 0.0 else math.inf
    return Past(torch.add(x, x0, alpha=-k.alpha_t), k.sigma_t, s)


def advance(x: Tensor, x0: Tensor, k: Step, shares: Sequence[float], past: Sequence[Past]) -> Tensor:
    """Return x_s of y_s = y_t + (s_s - s_t) (eps_0 + sum_j b_j (eps_j - eps_0)), b_j = `shares`, j from 1 back in time.

    Written about the DDIM step, (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x0_hat, which stays
    finite where alpha_t = 0; there can be no past there.
    """
    kept = k.sigma_s / k.sigma_t
    if not past:
        return update(x, kept, x0, k.alpha_s - k.alpha_t * kept)
    span = k.sigma_s - k.alpha_s * k.sigma_t / k.alpha_t  # alpha_s (s_s - s_t)
    weights = [span * b for b in shares]
    kept -= sum(weights) / k.sigma_t
    first, *rest = zip(past, weights, strict=True)
    x = update(x, kept, x0, k.alpha_s - k.alpha_t * kept, first[0].residual, first[1] / first[0].sigma)
    # the sum over x_0 is alpha_s - alpha_t kept: what is taken from x comes back with alpha_t
    for (one, a), (two, b) in zip(rest[::2], rest[1::2], strict=False):
        x = update(x, 1.0, one.residual, a / one.sigma, two.residual, b / two.sigma)
    if len(rest) % 2:
        x = update(x, 1.0, rest[-1][0].residual, rest[-1][1] / rest[-1][0].sigma)
    return x
