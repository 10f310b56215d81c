"""DEIS (Zhang & Chen 2023, arXiv 2204.13902): an Adams-Bashforth method on eps_hat against the exact exponential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule, Step, register, update
from .multistep import History, advance, trapezoid

_FAR = math.log(100)  # the h above which a step starts too far out: s falls more than a hundredfold


@register
@dataclass(frozen=True, kw_only=True)
class DEIS:
    """x_s = (alpha_s / alpha_t) x - sigma_s int_0^h e^(h-u) P(u) du, P the polynomial through the last eps_hat.

    u = lambda - lambda_t: the polynomial is in lambda, through `order` values (in sigma / alpha it is `LMS`). The first
    step is DDIM. From order 3 on, the next ones integrate the polynomial through all values from the start of the run,
    which makes good the first; order 4 also needs the second value at a better x than DDIM's, so its first step is
    corrected with one more evaluation. A step over which sigma / alpha falls more than a hundredfold, as from
    alpha = 0, is DDIM too (alpha_s / alpha_t has no bound), and what was before it is not used again.

    Default: order 3, the highest without that evaluation. Raises `InputError` for others than 2, 3 and 4.
    """

    order: int = 3

    nfe = 1

    def __post_init__(self) -> None:
        if self.order not in (2, 3, 4):
            raise InputError(f"DEIS.order={self.order} must be 2, 3 or 4; order 1 is DDIM")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def evaluations(self, grid: Tensor, schedule: Schedule | None) -> int:
        """Return the evaluations of a run over a grid that ends above the data."""
        n = len(grid) - 1
        return n + 1 if self.order == 4 and n > 0 else n

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return History()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's eps_hat."""
        x0, again = denoiser(x, k.t, **cond), self.order == 4 and k.i == 0
        if k.lam_s - k.lam_t > _FAR:
            kept = k.sigma_s / k.sigma_t
            c = k.alpha_s - k.alpha_t * kept
            x = update(x, kept, x0, c)
            return update(x, 1.0, denoiser(x, k.s, **cond) - x0, 0.5 * c) if again else x, History()
        eps = (x - k.alpha_t * x0) / k.sigma_t
        mirrored = k._replace(alpha_t=k.sigma_t, sigma_t=k.alpha_t, alpha_s=k.sigma_s, sigma_s=k.alpha_s)
        x, history = advance(x, mirrored, eps, state, self.order)
        if again and history.start is not None:
            there = (x - k.alpha_s * denoiser(x, k.s, **cond)) / k.sigma_s
            w = trapezoid(mirrored)
            x = update(x, 1.0, there, w, eps, -w)
            start = history.start._replace(used=(history.start.used[0] - w,), extra=(there, w))
            history = history._replace(start=start)
        return x, history
