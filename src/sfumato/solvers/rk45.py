"""An embedded Runge-Kutta rule with error control (Dormand & Prince 1980, doi 10.1016/0771-050X(80)90013-3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule, Step, per_row, register
from .adaptive import OwnSteps, drive, rms

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)


@register
@dataclass(frozen=True, kw_only=True)
class RK45(OwnSteps):
    """The probability-flow ODE by steps that hold the error at `atol` + `rtol` |z|, of orders 5 and 4.

    Solved as dz / dtheta = v = cos(theta) eps_hat - sin(theta) x0_hat, z = x / sqrt(alpha^2 + sigma^2), theta =
    atan(sigma / alpha) in [0, pi/2]: z and v are of the size of data and noise at every level, also where alpha = 0.
    Within each step of the grid every row takes steps of its own, six evaluations each, so a grid of a few times is
    enough: `grids.karras(schedule, 2)`. The error of a row is the root mean square over its values.

    Defaults: 1e-5 for both, as in Song et al. 2021 (arXiv 2011.13456, app. D.4).

    Raises `InputError` for tolerances that are not positive, and where they cannot be met.
    """

    atol: float = 1e-5
    rtol: float = 1e-5

    order = 5

    def __post_init__(self) -> None:
        if not (self.atol > 0.0 and self.rtol >= 0.0):
            raise InputError(f"RK45 needs atol above 0 and rtol of at least 0, got {self.atol} and {self.rtol}")

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Tensor, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return x_s and the steps to go on with."""
        way = (math.atan2(k.sigma_t, k.alpha_t), math.atan2(k.sigma_s, k.alpha_s))
        z = x / math.hypot(k.alpha_t, k.sigma_t)
        v = _slope(denoiser, z, torch.full((len(x),), way[0], dtype=torch.float64), cond)

        def trial(state: Tensor, here: Tensor, there: Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
            z, v = state.unbind(1)
            slopes, new, span = [v], z, per_row(there - here, z)
            for node, weights in zip(_NODES, _STAGES, strict=True):
                new = z + span * _sum(weights, slopes)
                slopes.append(_slope(denoiser, new, here + node * (there - here), cond))
            error = span * (_sum(_STAGES[-1], slopes) - _sum(_FOURTH, slopes))
            scale = self.atol + self.rtol * torch.maximum(z.abs(), new.abs())
            return torch.stack([new, slopes[-1]], 1), rms(error / scale)

        what = f"RK45(atol={self.atol}, rtol={self.rtol})"
        both, state = drive(trial, torch.stack([z, v], 1), way, state, 5, what, cond)
        return both[:, 0] * math.hypot(k.alpha_s, k.sigma_s), state


def _sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Return sum_i weights_i slopes_i."""
    out = slopes[0] * weights[0]
    for w, slope in zip(weights[1:], slopes[1:], strict=False):
        if w != 0.0:
            out.add_(slope, alpha=w)
    return out


def _slope(denoiser: Denoiser, z: Tensor, theta: Tensor, cond: Mapping[str, Any]) -> Tensor:
    """Return v = (cos(theta) z - x0_hat) / sin(theta)."""
    schedule: Schedule = denoiser.schedule
    t: Tensor = schedule.inverse(-torch.log(torch.tan(theta))).clamp(max=1.0)
    alpha, sigma = schedule(t)
    size = torch.sqrt(alpha * alpha + sigma * sigma)
    x0 = denoiser(per_row(size, z) * z, t, **cond)
    return (per_row(alpha / size, z) * z - x0) / per_row(sigma / size, z)
