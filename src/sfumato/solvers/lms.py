"""Linear multistep in s with exact weights (Katherine Crowson's k-diffusion; Adams & Bashforth 1883)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register
from .adams import Past, advance, recall

# the past, the newest first, and the weights with which it stands in the last step since the start of the run
History = tuple[tuple[Past, ...], tuple[float, ...]]


@register
@dataclass(frozen=True, kw_only=True)
class LMS:
    """y_s = y_t + int_(s_t)^(s_s) P(s) ds, y = x / alpha, P the polynomial through the last `order` eps_hat in s.

    Adams and Bashforth's rule for steps of any length; with polynomials in s it is DEIS too (arXiv 2204.13902, sec. 3).
    The weights are integrals of Lagrange's polynomials, in closed form. While there are fewer than `order` values, P
    goes through all of them and is integrated from the start of the run, so that each new one makes good the steps
    before it: with shorter formulas alone, as elsewhere, the run is of second order in the limit. Where s more than
    halves in such a step it is the shorter formulas after all. A start at alpha = 0 (s infinite) leaves no past.

    Default: order 4, as in k-diffusion; 1 is DDIM. Raises `InputError` for an order other than 1 to 4.
    """

    order: int = 4

    nfe = 1

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise InputError(f"LMS.order={self.order} must be 1, 2, 3 or 4")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> History:
        """Return an empty past."""
        return (), ()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the past with this step's eps_hat."""
        x0 = denoiser(x, k.t, **cond)
        now, (past, used) = recall(x, x0, k), state
        if now.s == math.inf:
            return advance(x, x0, k, (), ()), ((), ())
        nodes, end = [now.s, *(p.s for p in past)], k.sigma_s / k.alpha_s
        whole: list[float] = []
        weights = bashforth(nodes, now.s, end)
        # all values since the start are at hand, and near enough for a polynomial in s to be read between them
        if self.order > 2 and len(used) == len(past) and 0.5 < end / now.s < 2:
            whole = bashforth(nodes, nodes[-1], end)
            weights = [w - u for w, u in zip(whole, (0.0, *used), strict=True)]
        shares = [w / (end - now.s) for w in weights[1:]]
        kept = self.order - 1
        return advance(x, x0, k, shares, past), ((now, *past)[:kept], tuple(whole))


def bashforth(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Return the integrals from `start` to `end` of Lagrange's polynomials through `nodes`."""
    length = end - start
    places = [(v - start) / length for v in nodes]
    integrals: list[float] = []
    for u in places:
        powers = [1.0]  # the polynomial that is 1 at u and 0 at the other places, lowest power first
        for v in places:
            if v != u:
                powers = [(low - v * high) / (u - v) for low, high in zip([0.0, *powers], [*powers, 0.0], strict=True)]
        integrals.append(length * sum(c / (i + 1) for i, c in enumerate(powers)))
    return integrals
