"""Heun's method with EDM's churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, register, update
from .churn import Churn

FAR = 0.01  # the q below which a step starts too far out: s falls more than a hundredfold


@register
@dataclass(frozen=True, kw_only=True)
class Heun:
    """The trapezoid rule on dy/ds = (y - D) / s, y = x / alpha, s = sigma / alpha: an Euler step, then its correction.

    With q = s_s / s_t the two slopes collapse to y_s = y_euler + (1 - q) / (2 q) (D_s - D_t). That weight has no bound:
    where s falls more than a hundredfold in a step, as from t = 1 on the cosine schedule or where alpha_t = 0 (q = 0),
    the trapezoid is taken of the exact step's integral instead, whose weight is (1 - q) / 2, also of second order.
    `churn`, none by default, makes it EDM's stochastic sampler.
    """

    churn: Churn | None = None

    order = 2
    nfe = 2

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.churn is not None and self.churn.amount > 0.0

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return x_s."""
        if self.churn is not None:
            x, k = self.churn(denoiser.schedule, x, k, noise)
        x0 = denoiser(x, k.t, **cond)
        kept = k.sigma_s / k.sigma_t
        x = update(x, kept, x0, k.alpha_s - k.alpha_t * kept)
        return update(x, 1.0, denoiser(x, k.s, **cond) - x0, k.alpha_s * trapezoid(k)), None


def trapezoid(k: Step) -> float:
    """Return the weight of D_s - D_t beyond the Euler step."""
    kept = k.sigma_s / k.sigma_t
    q = kept * k.alpha_t / k.alpha_s
    return (1 - q) / (2 * q) if q > FAR else (1 - q) / 2
