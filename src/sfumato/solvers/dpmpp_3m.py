"""DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095), of third order, and as it is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, register
from .multistep import EMPTY, History, Values, advance
from .phi import combine, integrals


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
        return EMPTY

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

    def init(self, x: Tensor) -> Values:
        """Return an empty history."""
        return ()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Values, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Values]:
        """Return x_s and the history with this step's x0_hat."""
        x0, lam, kept = denoiser(x, k.t, **cond), k.lam_t, k.sigma_s / k.sigma_t
        h, c = k.lam_s - lam, k.alpha_s - k.alpha_t * kept
        nodes = [v - lam for _, v in state]
        weights: list[float] = []
        if len(nodes) == 1:
            weights = [0.5 * c * h / nodes[0]]
        elif nodes:
            a, b = nodes
            first, second = integrals(h, 2)
            second *= 0.5 * k.alpha_s
            first *= k.alpha_s
            weights = [(second - b * first) / (a * (a - b)), (second - a * first) / (b * (b - a))]
        terms = [(y, w) for (y, _), w in zip(state, weights)]
        values = ((x0, lam), *state[:1]) if k.alpha_t > 0.0 else ()
        return combine(x, kept, [(x0, c - sum(weights)), *terms]), values
