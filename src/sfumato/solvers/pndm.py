"""PNDM with its Runge-Kutta start (Liu et al. 2022, arXiv 2202.09778, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Schedule, Step, register, update
from .adams import EqualSteps, Past, advance, recall
from .ipndm import SHARES

_FAR = 0.1  # the s_s / s_t below which eps_hat is no guide: seen from x_t, its error is 1 / q times that of x0_hat


@register
@dataclass(frozen=True, kw_only=True)
class PNDM(EqualSteps):
    """PNDM's multistep formula (see `IPNDM`) after three steps of the classical Runge-Kutta rule on eps_hat.

    Such a step averages (eps_1 + 2 eps_2 + 2 eps_3 + eps_4) / 6, found at t, twice at (t + s) / 2 and at s by DDIM
    steps from x_t (eq. 13). It takes four evaluations. Where s falls more than tenfold, as from alpha = 0, x0_hat is
    averaged instead. Second order on equal steps of t, otherwise first.
    """

    @property
    def nfe(self) -> None:
        """Nothing: the first three steps take four evaluations, the others one."""

    def evaluations(self, grid: Tensor, schedule: Schedule | None) -> int:
        """Return the evaluations of a run over a grid that ends above the data."""
        n = len(grid) - 1
        return n + 3 * min(n, 3)

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: tuple[Past, ...], noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """Return x_s and the past with this step's eps_hat."""
        x0 = denoiser(x, k.t, **cond)
        now = recall(x, x0, k)
        if len(state) == 3:
            return advance(x, x0, k, SHARES[3], state), (now, *state)[:3]
        t = 0.5 * (k.t + k.s)
        middle = k._replace(s=t, **dict(zip(("alpha_s", "sigma_s"), denoiser.schedule(t), strict=True)))
        far = k.sigma_s * k.alpha_t < _FAR * k.sigma_t * k.alpha_s
        seen = [x0]
        for end in (middle, middle, k):
            there = _ddim(x.clone(), seen[-1], end)
            x0 = denoiser(there, end.s, **cond)
            seen.append(x0 if far else _as_seen_from(x, there, x0, end))
        mean = (seen[0] + 2 * seen[1] + 2 * seen[2] + seen[3]) / 6
        return _ddim(x, mean, k), (now, *state)[:3]


def _ddim(x: Tensor, x0: Tensor, k: Step) -> Tensor:
    kept = k.sigma_s / k.sigma_t
    return update(x, kept, x0, k.alpha_s - k.alpha_t * kept)


def _as_seen_from(x: Tensor, there: Tensor, x0: Tensor, k: Step) -> Tensor:
    """Return the x0_hat that has, with x at t, the eps_hat of x0_hat = `x0` with `there` at s."""
    ratio = k.sigma_t / k.sigma_s
    return (x - ratio * (there - k.alpha_s * x0)) / k.alpha_t
