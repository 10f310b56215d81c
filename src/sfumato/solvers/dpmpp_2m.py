"""DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, register, update

History = tuple[Tensor, float] | None  # the last x0_hat and its lambda


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp2M:
    """x_s = (sigma_s / sigma_t) x - alpha_s (e^-h - 1) D, D = (1 + w) D_0 - w D_1, w = h / (2 h_prev).

    h = lambda_s - lambda_t; D_0 and D_1 are this and the previous x0_hat. The first step, and one that follows a start
    at alpha = 0 (h_prev infinite), is of first order, which is DDIM.
    """

    order = 2
    nfe = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return None

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's x0_hat."""
        x0 = denoiser(x, k.t, **cond)
        lam_t = k.lam_t
        kept = k.sigma_s / k.sigma_t
        c = k.alpha_s - k.alpha_t * kept
        if state is None:
            return update(x, kept, x0, c), (x0, lam_t)
        previous, lam_previous = state
        w = 0.5 * (k.lam_s - lam_t) / (lam_t - lam_previous)
        return update(x, kept, x0, c * (1 + w), previous, -c * w), (x0, lam_t)
