"""DDPM's ancestral sampler (Ho, Jain & Abbeel 2020, arXiv 2006.11239, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update


@register
@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Draw x_s from q(x_s | x_t, x_0 = x0_hat), for any pair of times.

    With r = alpha_t / alpha_s and beta = sigma_t^2 - r^2 sigma_s^2, the mean is
    (r sigma_s^2 x + alpha_s beta x0_hat) / sigma_t^2 (eq. 7). The variance lies between beta-tilde =
    beta sigma_s^2 / sigma_t^2 (`variance` = 0: right for data that is one point; the default, the posterior's own)
    and beta (`variance` = 1: right for Gaussian data), interpolated in its logarithm as in arXiv 2102.09672, eq. 15.
    """

    variance: float = 0.0

    order = 1
    nfe = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.variance <= 1.0:
            raise InputError(f"DDPM.variance={self.variance} must lie in [0, 1]: 0 is beta-tilde, 1 is beta")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: always."""
        return True

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return a draw of x_s."""
        x0 = denoiser(x, k.t, **cond)
        r = k.alpha_t / k.alpha_s
        share = (k.sigma_s / k.sigma_t) ** 2  # beta-tilde / beta
        beta = k.sigma_t**2 - r * r * k.sigma_s**2
        std = (beta * share ** (1 - self.variance)) ** 0.5
        z = noise.increment(x, k.t, k.s)
        return update(x, r * share, x0, k.alpha_s * beta / k.sigma_t**2, z, std), None
