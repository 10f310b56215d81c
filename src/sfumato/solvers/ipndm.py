"""iPNDM (Zhang & Chen 2023, arXiv 2204.13902, section 4): PNDM's formula, started with the lower orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, register
from .adams import EqualSteps, Past, advance, recall

# Adams and Bashforth's weights of eps_1, eps_2, ... for equal steps, by the length of the past; eps_0 has the rest to 1
SHARES = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))


@register
@dataclass(frozen=True, kw_only=True)
class IPNDM(EqualSteps):
    """DDIM's step with eps_hat replaced by (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24.

    Before four are known, by (23, -16, 5) / 12, (3, -1) / 2 and eps_0 itself. The weights are those for equal steps,
    whatever the grid: on equal steps of t it is of second order, otherwise of first (`LMS` has the weights for any
    grid).
    """

    nfe = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: tuple[Past, ...], noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """Return x_s and the past with this step's eps_hat."""
        x0 = denoiser(x, k.t, **cond)
        now = recall(x, x0, k)
        return advance(x, x0, k, SHARES[len(state)], state), (now, *state)[:3]
