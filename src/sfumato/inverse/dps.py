"""Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687, algorithm 1): reconstruction guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..core import per_row, steps
from ..guidance.guided import branches_of, check_run, gradient, step_at
from .measured import Measured


@dataclass(frozen=True, kw_only=True, eq=False)
class DPS(Measured):
    """x0_hat - (zeta / c_k) grad_x |y - A x0_hat| at all times of step k of `grid`, c_k = alpha_s (1 - (s_s / s_t)^2).

    The paper moves x_s by -zeta grad |y - A x0_hat| after each ancestral step. c_k is the weight of x0_hat in that step
    (s = sigma / alpha), so with `DDPM` over `grid` this is algorithm 1, and any other solver can take it.

    The step is by hand: zeta belongs to the grid (the paper's 0.3 to 1 to 1000 steps), the operator and the data, and
    the result is not a draw of the posterior, whatever zeta is; `PiGDM` and `MomentMatching` are for that. It is kept
    as the baseline that others are compared with. Default 1, within the paper's range.

    Raises `InputError` for a run over another grid than `grid`.
    """

    grid: Tensor
    zeta: float = 1.0

    @cached_property
    def _weights(self) -> Tensor:
        """Zeta / c_k of each step, float64[n]."""
        plan = steps(self.schedule, self.grid)
        kept = [(k.alpha_t * k.sigma_s) / (k.alpha_s * k.sigma_t) for k in plan]
        given = [k.alpha_s * (1 - kappa**2) for k, kappa in zip(plan, kept, strict=True)]
        return self.zeta / torch.tensor(given, dtype=torch.float64)

    def prepare(self, times: Sequence[float]) -> Self:
        """Return this prepared for the times of a run over its own grid, or over a stretch of it."""
        check_run("DPS", self.grid, times)
        return super().prepare(times)

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, free)."""
        self.outermost(x)
        answers: list[Tensor] = []

        def misfit(z: Tensor) -> Tensor:
            x0, free = branches_of(self.denoiser, z, t, **cond)
            answers.extend((x0.detach(), free.detach()))
            return self.measured(x, x0)[1].flatten(1).norm(dim=1)

        slope = gradient(misfit, x)
        weight = self._weights[step_at(self.grid, t)]
        return answers[0] - per_row(weight if isinstance(t, Tensor) else float(weight), x) * slope, answers[1]
