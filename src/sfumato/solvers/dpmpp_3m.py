"""DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095), of third order, and as it is shipped."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, combine, register
from .multistep import History, Lams, advance
from .phi import integrals


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp3M:
    """x_s = (sigma_s / sigma_t) x + alpha_s int_0^h e^-(h-u) P(u) du, P the quadratic through the last three x0_hat.

    h = lambda_s - lambda_t, u = lambda - lambda_t. In Newton's form the last term is 2 phi_3 h^3 times the second
    divided difference, which is half a second derivative; `DPMpp3MShipped` has phi_3. The first step is DDIM; the
    second and third integrate the polynomial through all values from the start of the run, which makes good the
    first. A value at alpha = 0 (lambda infinite) is not used again.
    """

    order = 3
    nfe = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return History()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's x0_hat."""
        return advance(x, k, denoiser(x, k.t, **cond), state, 3)


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp3MShipped:
    """DPM-Solver++(3M) as its reference implementation and those after it have it: phi_3 where 2 phi_3 is right.

    The quadratic term has half its weight, so the order is 2. With few steps the error is about that of `DPMpp3M`;
    it is here to reproduce samples. The first step is DDIM, the second `DPMpp2M`'s.
    """

    order = 2
    nfe = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return History()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's x0_hat."""
        values, lams = (denoiser(x, k.t, **cond), *state.values), (k.lam_t, *state.lams)
        x = combine(x, k.sigma_s / k.sigma_t, values, _shipped(k, lams))
        return x, History(values[:2], lams[:2]) if k.alpha_t > 0.0 else History()


@functools.lru_cache(maxsize=4096)  # the next batch on the same grid asks for the same numbers
def _shipped(k: Step, lams: Lams) -> tuple[float, ...]:
    """Return the factors of the values at `lams`, the newest first."""
    lam, c = lams[0], k.alpha_s - k.alpha_t * k.sigma_s / k.sigma_t
    if len(lams) == 1:
        return (c,)
    h, a = k.lam_s - lam, lams[1] - lam
    if len(lams) == 2:
        w = 0.5 * c * h / a
        return c - w, w
    b = lams[2] - lam
    first, second = integrals(h, 2)
    second *= 0.5
    v, w = k.alpha_s * (second - b * first) / (a * (a - b)), k.alpha_s * (second - a * first) / (b * (b - a))
    return c - v - w, v, w
