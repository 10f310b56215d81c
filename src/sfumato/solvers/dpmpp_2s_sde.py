"""DPM-Solver++(2S) with noise, known as DPM++ SDE (Katherine Crowson's k-diffusion)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update
from .ddim import renewal
from .phi import between


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp2SSDE:
    """The step of DDIM(eta) from t to s with x0_hat = (1 - 1 / (2 r)) D_t + D_u / (2 r), lambda_u = lambda_t + r h.

    D_u is taken at the x_u that DDIM(eta) gives, noise and all; that noise is what it leaves of itself in x_s, beside
    the new noise from u to s. (Were the two independent, the variance would be of first order.) It differs from
    `Ancestral(solver=DPMpp2S())`, whose middle lies on the way to s_down. eta = 0 is `DPMpp2S`; eta = 1, the default,
    is the form in use, and r = 1/2 the usual middle.

    Raises `InputError` for an eta outside of [0, 1] and an r outside of (0, 1).
    """

    eta: float = 1.0
    r: float = 0.5

    order = 2
    nfe = 2

    def __post_init__(self) -> None:
        if not (0.0 <= self.eta <= 1.0 and 0.0 < self.r < 1.0):
            raise InputError(f"{self} is not possible: eta lies in [0, 1], 0 being the ODE, and r inside (0, 1)")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta > 0.0

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return a draw of x_s."""
        x0 = denoiser(x, k.t, **cond)
        u, alpha_u, sigma_u = between(denoiser.schedule, k, self.r)
        to_u, from_u = _split(k, u, alpha_u, sigma_u)
        kept, first = renewal(to_u, self.eta)
        middle = x * kept + x0 * (alpha_u - k.alpha_t * kept)
        z = noise.increment(x, k.t, u) if self.stochastic else None
        if z is not None:
            middle = update(middle, 1.0, z, first)
        x0 = x0.lerp(denoiser(middle, u, **cond), 0.5 / self.r)
        kept, whole = renewal(k, self.eta)
        x = update(x, kept, x0, k.alpha_s - k.alpha_t * kept)
        if z is not None:
            left, new = renewal(from_u, self.eta)
            left *= first
            share = whole / math.hypot(left, new)
            x = update(x, 1.0, z, share * left, noise.increment(x, u, k.s), share * new)
        return x, None


def _split(k: Step, u: float, alpha: float, sigma: float) -> tuple[Step, Step]:
    """Return the steps from t to u and from u to s."""
    return k._replace(s=u, alpha_s=alpha, sigma_s=sigma), k._replace(t=u, alpha_t=alpha, sigma_t=sigma)
