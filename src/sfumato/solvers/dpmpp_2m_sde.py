"""DPM-Solver++(2M) with noise, SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update
from .dpmpp_2m import History
from .multistep import damping
from .phi import adams


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp2MSDE:
    """x_s = (sigma_s / sigma_t) e^(-eta h) x + alpha_s (1 - e^-ah) D + sigma_s sqrt(1 - e^(-2 eta h)) z, a = 1 + eta.

    D = D_0 + (D_0 - D_1) h / (2 h_prev), as in `DPMpp2M`, which eta = 0 is. eta = 1, the default, is the reverse SDE
    that the paper solves; between them the noise is smaller and the marginals are the same.
    Raises `InputError` for a negative eta.
    """

    eta: float = 1.0

    order = 2
    nfe = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta < math.inf:
            raise InputError(f"{type(self).__name__}.eta={self.eta} must be at least 0: 0 is the ODE, 1 the SDE")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta > 0.0

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return None

    def slope(self, c: float, alpha_s: float, ah: float) -> float:
        """Return the weight on (D_0 - D_1) h / h_prev: half of D_0's own, c = alpha_s (1 - e^-ah), the midpoint."""
        return 0.5 * c

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's x0_hat."""
        x0 = denoiser(x, k.t, **cond)
        lam_t = k.lam_t
        h = k.lam_s - lam_t
        kept = damping(k, 1 + self.eta)
        c = k.alpha_s - k.alpha_t * kept
        if state is None:
            x = update(x, kept, x0, c)
        else:
            previous, lam_previous = state
            w = self.slope(c, k.alpha_s, (1 + self.eta) * h) * h / (lam_t - lam_previous)
            x = update(x, kept, x0, c + w, previous, -w)
        if self.stochastic:
            x = update(x, 1.0, noise.increment(x, k.t, k.s), k.sigma_s * (-math.expm1(-2 * self.eta * h)) ** 0.5)
        return x, (x0, lam_t) if k.alpha_t > 0.0 else None


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp2MHeunSDE(DPMpp2MSDE):
    """`DPMpp2MSDE` with the line through D_0, D_1 integrated exactly: the slope weighs alpha_s (1 - (1 - e^-ah) / ah).

    Known as the solver type "heun" where the other is "midpoint"; the two differ by a term of third order in h.
    """

    def slope(self, c: float, alpha_s: float, ah: float) -> float:
        """Return the weight on (D_0 - D_1) h / h_prev."""
        return alpha_s * adams(ah, [ah])[0]
