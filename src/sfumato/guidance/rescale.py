"""Rescaled guidance against over-exposure (Lin et al. 2023, arXiv 2305.08891, equations 15 and 16)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core import X0, InputError, Prediction, per_row
from .guided import Around, branches_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescale(Around):
    """out = phi out_guided std(out_cond) / std(out_guided) + (1 - phi) out_guided, the standard deviations row by row.

    `space` is the prediction in which `out` is written, x_0 by default; the paper has the network's own, so give
    `V()` or `Eps()` to match a model of that kind. `phi` 0.7 is the paper's.
    """

    phi: float = 0.7
    space: Prediction = field(default_factory=X0)

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise InputError(f"Rescale.phi={self.phi} must lie in [0, 1]: 0 is off")

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (rescaled, conditional)."""
        guided, conditional = branches_of(self.denoiser, x, t, **cond)
        if guided is conditional:
            return guided, conditional
        alpha, sigma = (per_row(v, x) for v in self.schedule(t))
        outs = [self.space.target(x0, (x - alpha * x0) / sigma, alpha, sigma) for x0 in (guided, conditional)]
        std_guided, std_conditional = (out.flatten(1).std(1) for out in outs)
        factor = 1 + self.phi * (std_conditional / std_guided - 1)
        return self.space.to_x0(outs[0] * per_row(factor, x), x, alpha, sigma), conditional
