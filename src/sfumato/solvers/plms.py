"""PLMS: PNDM with the pseudo improved Euler start (Liu et al. 2022, arXiv 2202.09778, app. A.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Schedule, Step, register, update
from .adams import EqualSteps, Past, advance, recall
from .heun import trapezoid
from .ipndm import SHARES


@register
@dataclass(frozen=True, kw_only=True)
class PLMS(EqualSteps):
    """PNDM's multistep formula (see `IPNDM`) after a first step with the mean of eps_hat at its two ends.

    That first step is Heun's, so it takes two evaluations. It is the sampler that latent diffusion models were
    published with. Second order on equal steps of t, otherwise first.
    """

    @property
    def nfe(self) -> None:
        """Nothing: the first step takes two evaluations, the others one."""

    def evaluations(self, grid: Tensor, schedule: Schedule | None) -> int:
        """Return the evaluations of a run over a grid that ends above the data."""
        return len(grid) if len(grid) > 1 else 0

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: tuple[Past, ...], noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """Return x_s and the past with this step's eps_hat."""
        x0 = denoiser(x, k.t, **cond)
        now = recall(x, x0, k)
        x = advance(x, x0, k, SHARES[len(state)], state)
        if not state:
            x = update(x, 1.0, denoiser(x, k.s, **cond) - x0, k.alpha_s * trapezoid(k))
        return x, (now, *state)[:3]
