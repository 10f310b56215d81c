"""DDIM (Song, Meng & Ermon 2020, arXiv 2010.02502, equation 12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update


@register
@dataclass(frozen=True, kw_only=True)
class DDIM:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, eps_hat = (x - alpha_t x0_hat) / sigma_t.

    v = eta^2 (sigma_t^2 - r^2 sigma_s^2) sigma_s^2 / sigma_t^2 with r = alpha_t / alpha_s is eq. 16 for any schedule:
    eta = 0, the default, is deterministic (the probability-flow ODE, first order); eta = 1 is DDPM with beta-tilde.
    """

    eta: float = 0.0

    order = 1
    nfe = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise InputError(f"DDIM.eta={self.eta} must lie in [0, 1]: 0 is deterministic, 1 is ancestral")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta > 0.0

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return x_s."""
        x0 = denoiser(x, k.t, **cond)
        if self.eta == 0.0:
            kept = k.sigma_s / k.sigma_t
            return update(x, kept, x0, k.alpha_s - k.alpha_t * kept), None
        kept, std = renewal(k, self.eta)
        return update(x, kept, x0, k.alpha_s - k.alpha_t * kept, noise.increment(x, k.t, k.s), std), None


def renewal(k: Step, eta: float) -> tuple[float, float]:
    """Return the factor on x_t, sqrt(sigma_s^2 - v) / sigma_t, and the new noise's standard deviation sqrt(v)."""
    r = k.alpha_t / k.alpha_s
    v = (eta * k.sigma_s / k.sigma_t) ** 2 * (k.sigma_t**2 - r * r * k.sigma_s**2)
    return (k.sigma_s**2 - v) ** 0.5 / k.sigma_t, v**0.5
