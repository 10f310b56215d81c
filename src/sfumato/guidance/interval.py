"""Guidance in a limited interval (Kynkaanniemi et al. 2024, arXiv 2404.07724, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Schedule, per_row, prepare
from .guided import Guided


@dataclass(frozen=True, kw_only=True, eq=False)
class Interval:
    """Guide only where low <= s <= high, s = sigma / alpha; elsewhere one plain evaluation.

    The paper's best for EDM2-XXL on ImageNet-512 is (0.28, 1.61); the right interval depends on the data, so there is
    no default.
    """

    denoiser: Guided
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise InputError(f"an interval needs 0 <= low <= high, got low={self.low}, high={self.high}")

    @property
    def schedule(self) -> Schedule:
        """The schedule of the guided denoiser."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys of the guided denoiser."""
        return self.denoiser.cond

    @property
    def plain(self) -> Denoiser:
        """The denoiser without guidance."""
        return self.denoiser.plain

    def prepare(self, times: Sequence[float]) -> Interval:
        """Return this with the inner denoiser prepared for the times of a run."""
        return replace(self, denoiser=prepare(self.denoiser, times))

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the guided x0_hat inside the interval, the plain one outside."""
        return self.branches(x, t, **cond)[0]

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, conditional); they are the same outside."""
        lam = self.schedule.lam(t)
        if isinstance(lam, Tensor):
            level = torch.exp(-lam)
            guided, conditional = self.denoiser.branches(x, t, **cond)
            inside = per_row(((level >= self.low) & (level <= self.high)).to(x.dtype), x)
            return torch.where(inside > 0, guided, conditional), conditional
        if self.low <= math.exp(min(-lam, 700.0)) <= self.high:
            return self.denoiser.branches(x, t, **cond)
        conditional = self.plain(x, t, **cond)
        return conditional, conditional
