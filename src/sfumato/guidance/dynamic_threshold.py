"""Dynamic thresholding of what guidance pushes out of range (Saharia et al. 2022, arXiv 2205.11487, section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, per_row
from .guided import Around, branches_of


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicThreshold(Around):
    """clip(x0_hat, -m, m) / m with m = max(1, the `quantile` of |x0_hat|), row by row.

    For data in [-1, 1], pixels above all: x0_hat within that range is left as it is. The quantile is linearly
    interpolated between values. Default 0.995, the 99.5th percentile of the paper's appendix.
    """

    quantile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise InputError(f"DynamicThreshold.quantile={self.quantile} must lie in [0, 1], such as 0.995")

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (thresholded, conditional)."""
        guided, conditional = branches_of(self.denoiser, x, t, **cond)
        size = guided.abs().flatten(1)
        place = self.quantile * (size.shape[1] - 1)
        # by sorting: torch.quantile refuses half precision and more than 2^24 values
        ranked = size.sort(1).values
        low = int(place)
        high = min(low + 1, size.shape[1] - 1)
        limit = per_row(torch.lerp(ranked[:, low], ranked[:, high], place - low).clamp(min=1.0), x)
        return torch.clamp(guided, -limit, limit) / limit, conditional
