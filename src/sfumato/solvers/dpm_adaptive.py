"""DPM-Solver with error control (Lu et al. 2022, arXiv 2206.00927, appendix C, algorithm 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, per_row, register, update
from .adaptive import OwnSteps, drive, rms

_FIRST = -10.0  # the lambda to which DDIM goes from alpha = 0: alpha^2, its error, is 2e-9


@register
@dataclass(frozen=True, kw_only=True)
class DPMAdaptive(OwnSteps):
    """DPM-Solver-12 (`order` 2) or -23 (3): the difference of two orders is held at max(atol, rtol |x|).

    Both are taken from the same evaluations, 2 or 3 for each step of lambda: y + (s' - s) eps_hat, DPM-Solver-2 with
    r = 1/2 (1/3 in -23), and DPM-Solver-3 with r = 1/3, 2/3, in y = x / alpha and s = sigma / alpha. The error of a row
    is the root mean square over its values, in x / sqrt(alpha^2 + sigma^2), so that schedules do not matter. Within
    each step of the grid every row takes steps of its own: `grids.karras(schedule, 2)` is enough.

    Defaults: the paper's order 3, atol 0.0078 (one grey level), rtol 0.05, and a first step of 0.05 in lambda.

    Raises `InputError` for settings that are not possible, and where the tolerances cannot be met.
    """

    order: int = 3
    atol: float = 0.0078
    rtol: float = 0.05

    def __post_init__(self) -> None:
        if not (self.order in (2, 3) and self.atol > 0.0 and self.rtol >= 0.0):
            raise InputError(f"{self} is not possible: it needs order 2 or 3, atol above 0 and rtol of at least 0")

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Tensor, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return x_s and the steps to go on with."""
        alpha, sigma, lam = k.alpha_t, k.sigma_t, k.lam_t
        if alpha == 0.0:
            lam = min(_FIRST, k.lam_s)
            alpha, sigma = (k.alpha_s, k.sigma_s) if lam == k.lam_s else _at(denoiser, lam)
            x = update(x, sigma / k.sigma_t, denoiser(x, k.t, **cond), alpha)

        def trial(y: Tensor, here: Tensor, there: Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
            low, high = self._pair(denoiser, y, here, there, cond)
            scale = per_row((1 + torch.exp(-2 * there)).rsqrt(), y)
            largest = torch.maximum(low.abs(), y.abs()) * scale
            return high, rms((high - low) * scale / (self.rtol * largest).clamp(min=self.atol))

        if lam == k.lam_s:
            return x, state
        what = f"DPMAdaptive(atol={self.atol}, rtol={self.rtol})"
        y, state = drive(trial, x / alpha, (lam, k.lam_s), state, self.order, what, cond)
        return y * k.alpha_s, state

    def _pair(
        self, denoiser: Denoiser, y: Tensor, here: Tensor, there: Tensor, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return y at `there` by the lower and the higher order."""
        h = there - here

        def go(r: float, slope: Tensor) -> Tensor:
            return y + per_row(torch.exp(-(here + r * h)) - torch.exp(-here), y) * slope

        def eps(y: Tensor, r: float) -> Tensor:
            lam = here + r * h
            t = denoiser.schedule.inverse(lam).clamp(max=1.0)
            x0 = denoiser(y * per_row(denoiser.schedule(t)[0], y), t, **cond)
            return (y - x0) / per_row(torch.exp(-lam), y)

        e0 = eps(y, 0.0)
        r = 1 / self.order
        d1 = eps(go(r, e0), r) - e0
        second = go(1.0, e0 + d1 / (2 * r))
        if self.order == 2:
            return go(1.0, e0), second
        # s phi_2, s the level that is reached: the integral of the slope's linear part in lambda
        part = 2 * h / 3
        bent = per_row(torch.exp(-(here + part)) * (torch.expm1(part) / part - 1), y)
        d2 = eps(go(2 / 3, e0) - 2 * bent * d1, 2 / 3) - e0
        bent = per_row(torch.exp(-there) * (torch.expm1(h) / h - 1), y)
        return second, go(1.0, e0) - 1.5 * bent * d2


def _at(denoiser: Denoiser, lam: float) -> tuple[float, float]:
    return denoiser.schedule(denoiser.schedule.inverse(lam))
