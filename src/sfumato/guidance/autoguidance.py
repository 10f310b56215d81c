"""Autoguidance (Karras et al. 2024, arXiv 2406.02507, equation 3): away from a bad version of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..core import Denoiser, InputError, prepare
from .guided import Around, branches_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Autoguidance(Around):
    """x0_hat = bad + scale (good - bad), both under the same conditions.

    `bad` is a smaller or less trained denoiser of the same data; where both err alike, the difference says in which
    direction the error lies. `scale` 1 is off (`bad` is not called). The paper takes about 2.1 for EDM2-S on
    ImageNet-512, away from EDM2-XS trained a sixteenth as long; the right one depends on both, so there is no default.

    Raises `InputError` when the two undo different corruptions.
    """

    bad: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if self.bad.schedule != self.denoiser.schedule:
            raise InputError(
                f"autoguidance compares two denoisers of the same x_t: this one has {self.denoiser.schedule}, the bad "
                f"one {self.bad.schedule}; give two of one schedule"
            )

    def prepare(self, times: Sequence[float]) -> Self:
        """Return this with both denoisers prepared for the times of a run."""
        return replace(self, denoiser=prepare(self.denoiser, times), bad=prepare(self.bad, times))

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, conditional)."""
        good, conditional = branches_of(self.denoiser, x, t, **cond)
        if self.scale == 1.0:
            return good, conditional
        return torch.lerp(self.bad(x, t, **cond), good, self.scale), conditional
