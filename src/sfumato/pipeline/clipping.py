"""x0_hat within a range, step by step, as models of pixels are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..guidance.guided import Around, branches_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Clipped(Around):
    """x0_hat of `denoiser`, guided or not, clipped to [-most, most]: a solver's step follows from what is left."""

    most: float

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (clipped, conditional)."""
        guided, conditional = branches_of(self.denoiser, x, t, **cond)
        return guided.clamp(-self.most, self.most), conditional
