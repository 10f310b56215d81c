"""CFG++ (Chung et al. 2024, arXiv 2406.08070, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..core import InputError, per_row, steps
from .guided import Around, check_null, check_run, step_at, with_null


@dataclass(frozen=True, kw_only=True, eq=False)
class CFGpp(Around):
    """Null + w_k (cond - null), w_k = omega / (1 - s_(k+1) / s_k) at all times of step k of `grid`, s = sigma / alpha.

    The paper interpolates with `omega` in [0, 1] and renoises with the null branch's eps:
    x_s = alpha_s (null + omega (cond - null)) + sigma_s eps_null. Under DDIM that is exactly classifier-free guidance
    with this w_k, so here it is a guidance that any solver can take; with DDIM it is the paper's algorithm.

    w_k depends on the grid: it grows about as the number of steps does, so `omega` cannot be carried from one number
    of steps to another. The paper's 0.6 stands for w = 7.5 with Stable Diffusion 1.5 in 50 steps.

    Raises `InputError` for an omega outside of [0, 1] and for a run over another grid than `grid`.
    """

    omega: float
    grid: Tensor
    null: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_null(self.denoiser, self.null)
        if not 0 <= self.omega <= 1:
            raise InputError(f"CFG++ interpolates: omega={self.omega} must lie in [0, 1]; ClassifierFree takes w > 1")

    @cached_property
    def _scales(self) -> Tensor:
        """w_k of each step, float64[n]."""
        plan = steps(self.schedule, self.grid)
        kept = [(k.alpha_t * k.sigma_s) / (k.sigma_t * k.alpha_s) for k in plan]
        return self.omega / (1 - torch.tensor(kept, dtype=torch.float64))

    def scale(self, t: float | Tensor) -> float | Tensor:
        """Return w at time t: that of the step (t_(k+1), t_k] that holds it, and of the nearest beyond both ends."""
        w = self._scales[step_at(self.grid, t)]
        return w if isinstance(t, Tensor) else float(w)

    def prepare(self, times: Sequence[float]) -> Self:
        """Return this prepared for the times of a run over its own grid, or over a stretch of it."""
        check_run("CFGpp", self.grid, times)
        return super().prepare(times)

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, conditional)."""
        conditional, null = with_null(self.denoiser, self.null, x, t, cond)
        return null + per_row(self.scale(t), x) * (conditional - null), conditional
