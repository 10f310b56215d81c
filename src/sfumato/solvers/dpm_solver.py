"""DPM-Solver-2 and -3 (Lu et al. 2022, arXiv 2206.00927, algorithms 1 and 2): singlestep, in eps_hat."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core import Step, register
from .dpmpp_2s import DPMpp2S
from .dpmpp_3s import R1, R2, DPMpp3S
from .phi import adams

_FAR = math.log(100)  # the h above which a step starts too far out: s falls more than a hundredfold


@register
@dataclass(frozen=True, kw_only=True)
class DPMSolver2(DPMpp2S):
    """x_s = (alpha_s / alpha_t) x - sigma_s (e^h - 1) [eps_t + (eps_u - eps_t) / (2 r)], h = lambda_s - lambda_t.

    eps_u is taken at lambda_u = lambda_t + r h, at the x_u that DDIM gives; so eps_u - eps_t =
    -e^lambda_u (D_u - D_t), and the step is `DPMpp2S` with e^(r h) times the weight on D_u - D_t. That factor has no
    bound: a step over which sigma / alpha falls more than a hundredfold, as from alpha = 0, goes without it.
    Default r = 1/2 as in algorithm 1. DPM-Solver-1 is `DDIM`.
    """

    def weight(self, k: Step) -> float:
        """Return the weight on D_u - D_t, in units of alpha_s (1 - e^-h)."""
        h = k.lam_s - k.lam_t
        return 0.5 / self.r * math.exp(self.r * h) if h < _FAR else super().weight(k)


@register
@dataclass(frozen=True, kw_only=True)
class DPMSolver3(DPMpp3S):
    """x_s = (alpha_s / alpha_t) x - sigma_s (e^h - 1) eps_t - sigma_s ((e^h - 1) / h - 1) (eps_2 - eps_t) / r_2.

    eps_1 and eps_2 are taken at lambda_t + r h for r_1 = 1/3 and r_2 = 2/3, the latter at an x that uses eps_1 in the
    same way. In x0_hat, with v the weight of D_1 - D_t in that x_2: eps_1 - eps_t = -e^lambda_1 (D_1 - D_t) and
    eps_2 - eps_t = -e^lambda_2 [(D_2 - D_t) - v (D_1 - D_t)]. The weights have no bound: a step over which
    sigma / alpha falls more than a hundredfold, as from alpha = 0, is `DPMpp3S`'s.
    """

    def weights(self, k: Step) -> tuple[float, float, float]:
        """Return the weights on D_1 - D_t in x_2, and on D_2 - D_t and D_1 - D_t in x_s, in units of their alpha."""
        h = k.lam_s - k.lam_t
        if h >= _FAR:
            return super().weights(k)
        # int e^(h-u) P du, which is `adams` with all signs changed, and its e^(lambda_2 - lambda_s) to stand by alpha_s
        v = -math.exp((R1 - R2) * h) * adams(-R2 * h, [-R1 * h])[0]
        w = -math.exp((R2 - 1) * h) * adams(-h, [-R2 * h])[0]
        return v, w, -v * w
