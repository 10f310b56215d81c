"""SA-Solver, the stochastic Adams method (Xue et al. 2023, arXiv 2309.05019, algorithm 1), in x0_hat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update
from .adams_moulton import Ahead, predict


@register
@dataclass(frozen=True, kw_only=True)
class SASolver:
    """x_s = (sigma_s / sigma_t) e^(-eta h) x + alpha_s a int_0^h e^-a(h-u) P(u) du + sigma_s sqrt(1 - e^(-2 eta h)) z.

    eta = tau^2 and a = 1 + eta; P is the polynomial in lambda through the last p x0_hat (the predictor), and then also
    through the next step's (the corrector, with the same noise), which is not evaluated again. tau scales the noise of
    the reverse SDE: 1 is that of the forward process, 0 the probability-flow ODE, of order p + 1. It applies for
    low <= sigma / alpha <= high and is 0 elsewhere.

    Defaults: tau = 1 at every noise level (the paper confines it to some of them), and p = 3 for predictor and
    corrector. Raises `InputError` for p other than 1, 2 and 3, a negative tau, and low above high.
    """

    tau: float = 1.0
    p: int = 3
    low: float = 0.0
    high: float = math.inf

    nfe = 1

    def __post_init__(self) -> None:
        if self.p not in (1, 2, 3):
            raise InputError(f"SASolver.p={self.p} must be 1, 2 or 3")
        if not (0.0 <= self.tau < math.inf and 0.0 <= self.low <= self.high):
            raise InputError(f"{self} is not possible: tau is at least 0, and low is at most high")

    @property
    def order(self) -> int:
        """The order of convergence where tau is 0, p + 1."""
        return self.p + 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.tau > 0.0

    def init(self, x: Tensor) -> Ahead:
        """Return an empty history."""
        return Ahead()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Ahead, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Ahead]:
        """Return the predicted x_s and the history with this step's x0_hat."""
        s = k.sigma_t / k.alpha_t if k.alpha_t > 0.0 else math.inf
        eta = self.tau**2 if self.low <= s <= self.high else 0.0
        x, state = predict(x, k, denoiser(x, k.t, **cond), state, self.p, 1 + eta)
        if eta > 0.0:
            std = k.sigma_s * (-math.expm1(-2 * eta * (k.lam_s - k.lam_t))) ** 0.5
            x = update(x, 1.0, noise.increment(x, k.t, k.s), std)
        return x, state
