"""DPM-Solver++(3M) with noise: the third-order multistep form of SDE-DPM-Solver++ (arXiv 2211.01095)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update
from .multistep import History, advance


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp3MSDE:
    """x_s = (sigma_s / sigma_t) e^(-eta h) x + alpha_s a int_0^h e^-a(h-u) P(u) du + sigma_s sqrt(1 - e^(-2 eta h)) z.

    a = 1 + eta, and P is the quadratic through the last three x0_hat, all as in `DPMpp3M`, which eta = 0 is (the form
    that others ship has half the weight on the quadratic term here too). eta = 1, the default, is the reverse SDE.
    Raises `InputError` for a negative eta.
    """

    eta: float = 1.0

    order = 3
    nfe = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta < math.inf:
            raise InputError(f"DPMpp3MSDE.eta={self.eta} must be at least 0: 0 is the ODE, 1 the SDE")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta > 0.0

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return History()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's x0_hat."""
        x, state = advance(x, k, denoiser(x, k.t, **cond), state, 3, 1 + self.eta)
        if self.stochastic:
            std = k.sigma_s * (-math.expm1(-2 * self.eta * (k.lam_s - k.lam_t))) ** 0.5
            x = update(x, 1.0, noise.increment(x, k.t, k.s), std)
        return x, state
