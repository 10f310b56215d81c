"""What a network's output means: five ways to write E[x_0 | x_t], and EDM's preconditioned one.

Each is a pure pair: `to_x0` reads the output, `target` says what the network should have put out. All are affine in
the output, x_0 = (something of x_t) + gain * out, and `gain` turns an error of the output into an error of x_0.
Coefficients are floats, or tensors that already broadcast against x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .config import register
from .errors import InputError


class Prediction(Protocol):
    """A pure pair of functions between the network's output and x_0."""

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """Return E[x_0 | x_t] from the output at x = x_t."""
        ...

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """Return the output that `to_x0` would turn into exactly `x0`, for x_t = alpha x0 + sigma eps."""
        ...

    def gain(self, alpha: Any, sigma: Any) -> Any:
        """Return d x_0 / d out."""
        ...


def _needs_alpha(kind: str, alpha: Any) -> None:
    """Refuse to divide by alpha = 0, where the output says nothing about x_0."""
    if isinstance(alpha, float) and alpha <= 0.0:
        raise InputError(
            f"{kind} cannot give x_0 where alpha = 0 (this schedule's t = 1): start the grid below it (start=0.999), "
            "or use V, Flow or X0"
        )


@register
@dataclass(frozen=True, kw_only=True)
class X0:
    """out = x_0."""

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return out

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return x0

    def gain(self, alpha: Any, sigma: Any) -> Any:
        return alpha * 0 + 1.0


@register
@dataclass(frozen=True, kw_only=True)
class Eps:
    """out = eps, the noise: x_0 = (x - sigma out) / alpha (Ho et al. 2020, arXiv 2006.11239, eq. 15)."""

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        _needs_alpha("Eps", alpha)
        return axpby(x, 1 / alpha, out, -sigma / alpha)

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return eps

    def gain(self, alpha: Any, sigma: Any) -> Any:
        return -sigma / alpha


@register
@dataclass(frozen=True, kw_only=True)
class V:
    """out = alpha eps - sigma x_0: x_0 = (alpha x - sigma out) / (alpha^2 + sigma^2)
    (Salimans & Ho 2022, arXiv 2202.00512, app. D).

    The paper's alpha^2 + sigma^2 is 1; divided by it, the reading is exact on every schedule.
    """

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        total = alpha * alpha + sigma * sigma
        return axpby(x, alpha / total, out, -sigma / total)

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return axpby(eps, alpha, x0, -sigma)

    def gain(self, alpha: Any, sigma: Any) -> Any:
        return -sigma / (alpha * alpha + sigma * sigma)


@register
@dataclass(frozen=True, kw_only=True)
class Flow:
    """out = eps - x_0, the velocity of a straight path: x_0 = (x - sigma out) / (alpha + sigma)
    (arXiv 2209.03003, eq. 1).
    """

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        total = alpha + sigma
        return axpby(x, 1 / total, out, -sigma / total)

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return eps - x0

    def gain(self, alpha: Any, sigma: Any) -> Any:
        return -sigma / (alpha + sigma)


@register
@dataclass(frozen=True, kw_only=True)
class Score:
    """out = grad log p(x_t) = -E[eps | x_t] / sigma: x_0 = (x + sigma^2 out) / alpha
    (Tweedie; arXiv 2011.13456, eq. 7).
    """

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        _needs_alpha("Score", alpha)
        return axpby(x, 1 / alpha, out, sigma * sigma / alpha)

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return eps * (-1 / sigma)

    def gain(self, alpha: Any, sigma: Any) -> Any:
        return sigma * sigma / alpha


@register
@dataclass(frozen=True, kw_only=True)
class Karras:
    """EDM's c_skip and c_out: x_0 = c_skip y + c_out out with y = x / alpha, s = sigma / alpha
    (arXiv 2206.00364, table 1).

    c_skip = sd^2 / (s^2 + sd^2), c_out = s sd / sqrt(s^2 + sd^2), written in (alpha, sigma) so that alpha = 0 is fine.
    `sigma_data` is the data's standard deviation; 0.5 is the paper's, for images in [-1, 1].
    """

    sigma_data: float = 0.5

    def to_x0(self, out: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        variance = self._variance(alpha, sigma)
        return axpby(x, alpha * self.sigma_data**2 / variance, out, self.gain(alpha, sigma))

    def target(self, x0: Tensor, eps: Tensor, alpha: Any, sigma: Any) -> Tensor:
        # (x_0 - c_skip y) / c_out = (sigma x_0 / sd - alpha sd eps) / sqrt(variance)
        root = self._variance(alpha, sigma) ** 0.5
        return axpby(x0, sigma / (self.sigma_data * root), eps, -alpha * self.sigma_data / root)

    def gain(self, alpha: Any, sigma: Any) -> Any:
        return sigma * self.sigma_data / self._variance(alpha, sigma) ** 0.5

    def _variance(self, alpha: Any, sigma: Any) -> Any:
        """Return Var(x_t) = sigma^2 + alpha^2 sd^2."""
        return sigma * sigma + alpha * alpha * self.sigma_data**2


def axpby(x: Tensor, a: Any, y: Tensor, b: Any) -> Tensor:
    """Return a x + b y in two operations; `a` and `b` are floats or broadcastable tensors."""
    if isinstance(b, (float, int)) and math.isfinite(b):
        return (x * a).add_(y, alpha=b) if not y.requires_grad and not x.requires_grad else (x * a).add(y, alpha=b)
    return x * a + y * b
