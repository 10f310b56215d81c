"""Euler's method on dy/ds = (y - D) / s, with EDM's churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2 without
line 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, register, update
from .churn import Churn


@register
@dataclass(frozen=True, kw_only=True)
class Euler:
    """x_s = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x0_hat: one Euler step of y = x / alpha in s.

    Without churn, the default, it is DDIM with eta = 0; with `churn` the first-order half of EDM's stochastic sampler.
    """

    churn: Churn | None = None

    order = 1
    nfe = 1

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
        kept = k.sigma_s / k.sigma_t
        return update(x, kept, denoiser(x, k.t, **cond), k.alpha_s - k.alpha_t * kept), None
