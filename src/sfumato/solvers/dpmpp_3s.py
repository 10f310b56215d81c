"""DPM-Solver++(3S): singlestep, of third order, in x0_hat (Lu et al. 2022, arXiv 2211.01095)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, combine, register
from .phi import adams, between

R1, R2 = 1 / 3, 2 / 3  # where in a step the second and the third x0_hat are taken


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp3S:
    """x_s = (sigma_s / sigma_t) x + alpha_s [(1 - e^-h) D_t + (1 + (e^-h - 1) / h) (D_2 - D_t) / r_2].

    D_1 and D_2 are x0_hat at lambda_t + r h for r_1 = 1/3 and r_2 = 2/3, the latter at an x that uses D_1 in the same
    way; r_2 = 2/3 is what makes the order 3, r_1 is DPM-Solver-3's (arXiv 2206.00927, algorithm 2). From alpha = 0,
    where h is infinite, the shares and the slopes are in e^lambda: Heun's third-order formula there.
    """

    order = 3
    nfe = 3

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def weights(self, k: Step) -> tuple[float, float, float]:
        """Return the weights on D_1 - D_t in x_2, and on D_2 - D_t and D_1 - D_t in x_s, in units of their alpha."""
        if k.alpha_t <= 0.0:
            return 0.5 * R2 / R1, 0.5 / R2, 0.0
        h = k.lam_s - k.lam_t
        return adams(R2 * h, [R1 * h])[0], adams(h, [R2 * h])[0], 0.0

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return x_s."""
        x0 = denoiser(x, k.t, **cond)
        v, w, back = self.weights(k)
        u, alpha, sigma = between(denoiser.schedule, k, R1)
        kept = sigma / k.sigma_t
        x1 = denoiser(x * kept + x0 * (alpha - k.alpha_t * kept), u, **cond)
        u, alpha, sigma = between(denoiser.schedule, k, R2)
        kept = sigma / k.sigma_t
        x2 = denoiser(x * kept + x0 * (alpha * (1 - v) - k.alpha_t * kept) + x1 * (alpha * v), u, **cond)
        kept = k.sigma_s / k.sigma_t
        own = k.alpha_s * (1 - w - back) - k.alpha_t * kept
        return combine(x, kept, (x0, x2, x1), (own, k.alpha_s * w, k.alpha_s * back)), None
